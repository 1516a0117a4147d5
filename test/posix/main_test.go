//go:build linux

package posix_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cairn/internal/testkit/tapemount"
)

func TestMain(m *testing.M) {
	os.Exit(tapemount.Main(m)) //nolint:forbidigo // as TestMain must
}

// place is a folder that a case has for itself.
type place struct {
	*testing.T
	dir  string
	tape bool // it lies on a mounted tape
}

func (p *place) path(name string) string { return p.dir + "/" + name } // Join would clean "." and slashes away

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// fails expects one of some errors; 0 stands for success.
func (p *place) fails(what string, err error, want ...syscall.Errno) {
	p.Helper()
	for _, errno := range want {
		if errno == 0 && err == nil || errno != 0 && errors.Is(err, errno) {
			return
		}
	}
	p.Errorf("%s: %v, want %v", what, err, want)
}

func (p *place) write(name, text string) {
	p.Helper()
	p.must(os.WriteFile(p.path(name), []byte(text), 0o644))
}

func (p *place) holds(name, want string) {
	p.Helper()
	got, err := os.ReadFile(p.path(name))
	if err != nil || string(got) != want {
		p.Errorf("%s holds %.80q, want %.80q (%v)", name, got, want, err)
	}
}

func (p *place) mkdir(name string) {
	p.Helper()
	p.must(os.Mkdir(p.path(name), 0o755))
}

func (p *place) open(name string, flags int) *os.File {
	p.Helper()
	f, err := os.OpenFile(p.path(name), flags, 0o644)
	p.must(err)
	p.Cleanup(func() { _ = f.Close() })
	return f
}

// opens is the error of opening a file.
func (p *place) opens(name string, flags int) error {
	f, err := os.OpenFile(p.path(name), flags, 0o644)
	if err == nil {
		_ = f.Close()
	}
	return err
}

func (p *place) stat(name string) (st syscall.Stat_t) {
	p.Helper()
	p.must(syscall.Lstat(p.path(name), &st))
	return st
}

func (p *place) absent(name string) {
	p.Helper()
	if _, err := os.Lstat(p.path(name)); !errors.Is(err, fs.ErrNotExist) {
		p.Errorf("%s is there (%v)", name, err)
	}
}

// Every case on a mounted tape, and on the file system of the temporary folder.
func TestCases(t *testing.T) {
	tapemount.Need(t)
	m := tapemount.Mount(t, tapemount.NewTape(t), tapemount.Options{Sync: "time@1s"})
	syscall.Umask(0o022)
	for dir := filepath.Dir(m.Dir); dir != os.TempDir(); dir = filepath.Dir(dir) { // other users come this way, too
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, run := range cases {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			for _, at := range []struct {
				name string
				dir  string
			}{{"tape", m.Dir}, {"disk", t.TempDir()}} {
				t.Run(at.name, func(t *testing.T) {
					p := &place{T: t, dir: filepath.Join(at.dir, name), tape: at.name == "tape"}
					p.must(os.Mkdir(p.dir, 0o755))
					run(p)
				})
			}
		})
	}
	m.Again() // and what the cases left is on tape, and in order
	m.Unmount()
}
