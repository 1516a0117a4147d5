//go:build linux

// Package tapemount mounts a tape for a test, by a process of its own: a Go program
// that uses a file system it serves itself can deadlock, and a test wants to kill
// the server as a cut of power would. The test's binary is that process too: its
// TestMain calls Main.
//
// It skips the test where /dev/fuse or the right to mount is missing.
package tapemount

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/internal/front/ltfsmount"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
)

const variable = "CAIRN_TAPEMOUNT"

// Options choose how a tape is mounted. The zero value is the policy "unmount"
// with sync(2) handed on.
type Options struct {
	Sync     string // the policy; empty: unmount
	NoSync   bool   // sync(2) is left alone
	Buffer   int64  // bytes in memory; 0: the usual
	Budget   int64  // bytes of tape for indexes; 0: the usual, negative: no limit
	Readonly bool
	Log      string // a file for the server's log; empty: none
}

// message is what the server is told.
type message struct {
	Options
	Tape, Dir string
}

// Main runs the tests, or serves a mount when this is the server's process.
func Main(m *testing.M) int {
	text := os.Getenv(variable)
	if text == "" {
		return m.Run()
	}
	var o message
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = serve(o)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func serve(o message) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	f, err := o.open(ctx)
	if err != nil {
		return err
	}
	m, err := ltfsmount.Start(f, o.Dir, ltfsmount.Options{Drive: o.Tape, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), AllowOther: os.Geteuid() == 0,
		ReadOnly: f.Status().ReadOnly, SyncCalls: !o.NoSync})
	if err != nil {
		return errors.Join(err, f.Close(ctx))
	}
	fmt.Println("mounted")
	m.Wait()
	return f.Close(ctx)
}

func (o message) open(ctx context.Context) (*tape.FS, error) {
	if o.Sync == "" {
		o.Sync = "unmount"
	}
	policy, err := syncpolicy.Parse(strings.Split(o.Sync, ",")...)
	if err != nil {
		return nil, err
	}
	d, err := drive.OpenFolder(o.Tape, drive.FolderOptions{ReadOnly: o.Readonly})
	if err != nil {
		return nil, err
	}
	t, err := tape.Open(ctx, d, o.Tape)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	fo := tape.FSOptions{Policy: policy, Buffer: o.Buffer, IndexBudget: o.Budget, ReadOnly: o.Readonly}
	if o.Log != "" {
		file, err := os.OpenFile(o.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		fo.Logger = slog.New(slog.NewTextHandler(file, nil))
	}
	f, err := tape.NewFS(ctx, t, fo)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return f, nil
}

// Need skips the test where a tape cannot be mounted.
func Need(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil || os.Geteuid() != 0 {
		t.Skip("this place does not offer /dev/fuse and the right to mount")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// NewTape formats a folder as a tape, with records of 64 KiB, and returns it.
func NewTape(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "TAPE")
	d, err := drive.CreateFolder(dir, drive.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := tape.Format(t.Context(), d, dir, tape.FormatOptions{BlockSize: 64 << 10, Name: "volume", Creator: "test", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := tp.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Mounted is a tape mounted by another process.
type Mounted struct {
	Tape   string // the drive's folder
	Dir    string // where it is mounted
	Server *exec.Cmd

	t testing.TB
	o Options
}

// Mount mounts a tape on a new folder; the test's end takes away what it leaves.
func Mount(t testing.TB, tapeDir string, o Options) *Mounted {
	t.Helper()
	Need(t)
	m := &Mounted{Tape: tapeDir, Dir: t.TempDir(), t: t, o: o}
	t.Cleanup(m.abandon)
	m.start()
	return m
}

func (m *Mounted) start() {
	m.t.Helper()
	text, err := json.Marshal(message{Options: m.o, Tape: m.Tape, Dir: m.Dir})
	if err != nil {
		m.t.Fatal(err)
	}
	m.Server = exec.Command(os.Args[0])
	m.Server.Env = append(os.Environ(), variable+"="+string(text))
	m.Server.Stderr = os.Stderr
	out, err := m.Server.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.Server.Start(); err != nil {
		m.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line == "mounted\n" {
		return
	}
	rest, _ := io.ReadAll(out)
	if strings.Contains(line, "operation not permitted") || strings.Contains(line, "no such device") {
		m.t.Skip("this place does not offer /dev/fuse and the right to mount: " + line)
	}
	m.t.Fatalf("%s%s %v", line, rest, err)
}

func (m *Mounted) abandon() {
	_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH)
	_ = m.Server.Process.Kill()
	_ = m.Server.Wait()
}

// Path is a file's below the mount.
func (m *Mounted) Path(name string) string { return filepath.Join(m.Dir, name) }

// Unmount unmounts, waits for the server and fails the test if not everything is
// on tape.
func (m *Mounted) Unmount() {
	m.t.Helper()
	if err := syscall.Unmount(m.Dir, 0); err != nil {
		m.t.Fatal(err)
	}
	if err := m.Server.Wait(); err != nil {
		m.t.Fatalf("the server's end: %v", err)
	}
}

// Again unmounts and mounts anew on the same folder.
func (m *Mounted) Again() {
	m.t.Helper()
	m.Unmount()
	m.start()
}

// Kill ends the server as a cut of power would, and takes the dead mount away.
func (m *Mounted) Kill() {
	m.t.Helper()
	if err := m.Server.Process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	_ = m.Server.Wait()
	if err := syscall.Unmount(m.Dir, syscall.MNT_DETACH); err != nil {
		m.t.Fatal(err)
	}
}

// Attr reads an extended attribute of the user name space.
func (m *Mounted) Attr(name, attribute string) string {
	m.t.Helper()
	buf := make([]byte, 4096)
	n, err := syscall.Getxattr(m.Path(name), "user."+attribute, buf)
	if err != nil {
		m.t.Fatalf("%s of %s: %v", attribute, name, err)
	}
	return string(buf[:n])
}

// SetAttr writes one.
func (m *Mounted) SetAttr(name, attribute, value string) {
	m.t.Helper()
	if err := syscall.Setxattr(m.Path(name), "user."+attribute, []byte(value), 0); err != nil {
		m.t.Fatalf("%s of %s: %v", attribute, name, err)
	}
}
