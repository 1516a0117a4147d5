// Package fakezfs is a program zfs for tests on machines without ZFS, with its state
// in a folder: a small program that Main builds or, where there is no go command,
// the test binary started again under the name zfs. It knows the
// commands that Cairn uses, keeps data, GUIDs, holds, bookmarks and cut receives,
// answers in OpenZFS's words, and makes and takes real send streams of one object.
//
// It is checked against OpenZFS: internal/system/zfs runs the same cases on both.
// It promises nothing about what those cases do not reach.
//
// Beyond ZFS it fails on demand (Fake.Fail), hangs on demand, and logs every call.
package fakezfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Fake is one ZFS of its own.
type Fake struct {
	ZFS     string // path of the program
	Devices string // folder of the zvols' device nodes
	dir     string
	t       testing.TB
}

// marker is the file that tells a fake's folder.
const marker = "fakezfs"

// Main runs the tests, or is the program zfs when it was started under that name.
// Call it from TestMain.
func Main(m *testing.M) {
	if status, is := Program(); is {
		os.Exit(status) //nolint:forbidigo // the fake program ends here
	}
	// Under the race detector each process would end a second late.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	remove := build()
	status := m.Run()
	remove()
	os.Exit(status) //nolint:forbidigo // as TestMain must
}

// program is the fake alone; empty: the running program is the fake too. Set before
// the tests run.
var program string

// build makes the small program, where that can be done. The returned function
// takes it away.
func build() (remove func()) {
	dir, err := os.MkdirTemp("", "fakezfs")
	if err != nil {
		return func() {}
	}
	path := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-o", path, "-ldflags", "-s -w", "cairn/internal/testkit/fakezfs/zfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if cmd.Run() == nil {
		program = path
	}
	return func() { _ = os.RemoveAll(dir) } // what is left of it lies in the temporary folder
}

// Program is the program zfs, when it was started under that name: for test binaries
// that are other programs too. The caller ends the process with the status.
func Program() (status int, is bool) {
	dir, name := filepath.Split(os.Args[0])
	if name == "" || name != "zfs" {
		return 0, false
	}
	if dir == "" { // started through PATH by a shell
		path, err := exec.LookPath(name)
		if err != nil {
			return 0, false
		}
		dir = filepath.Dir(path)
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return 0, false
	}
	c := &command{dir: filepath.Clean(dir), in: os.Stdin, out: os.Stdout, errs: os.Stderr}
	return c.run(os.Args[1:]), true
}

// New makes a ZFS without pools.
func New(t testing.TB) *Fake {
	t.Helper()
	f, err := In(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f.t = t
	return f
}

// In makes a ZFS with these pools in a folder of its own, which holds the program too.
// Of its methods only those that return errors may be used.
func In(dir string, pools ...string) (*Fake, error) {
	self, err := program, error(nil)
	if self == "" {
		self, err = os.Executable()
	}
	if err != nil {
		return nil, err
	}
	f := &Fake{dir: dir, ZFS: filepath.Join(dir, "zfs"), Devices: filepath.Join(dir, "dev")}
	err = errors.Join(os.Symlink(self, f.ZFS), os.WriteFile(filepath.Join(dir, marker), nil, 0o600),
		os.Mkdir(filepath.Join(dir, "blobs"), 0o700), os.Mkdir(f.Devices, 0o700))
	if err != nil {
		return nil, err
	}
	return f, f.locked(func(s *state) error {
		for _, name := range pools {
			s.make(name, "filesystem")
		}
		return nil
	})
}

// Pool makes a pool.
func (f *Fake) Pool(name string) {
	f.t.Helper()
	f.change(func(s *state) error {
		s.make(name, "filesystem")
		return nil
	})
}

// Drop takes a pool away with all that is in it.
func (f *Fake) Drop(name string) {
	f.t.Helper()
	f.change(func(s *state) error {
		for _, d := range s.below(name) {
			delete(s.Datasets, d)
		}
		return nil
	})
}

// Try does a command as a user would, and returns what it printed and its error. It
// starts no process, and planted faults spare it.
func (f *Fake) Try(args ...string) (string, error) {
	var out, errs bytes.Buffer
	c := &command{dir: f.dir, spared: true, in: strings.NewReader(""), out: &out, errs: &errs}
	if status := c.run(args); status != 0 {
		return out.String(), fmt.Errorf("zfs %s: exit status %d: %s", strings.Join(args, " "), status, errs.String())
	}
	return out.String(), nil
}

// Run is Try that has to succeed.
func (f *Fake) Run(args ...string) string {
	f.t.Helper()
	out, err := f.Try(args...)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// Write changes the head of a dataset.
func (f *Fake) Write(dataset string, off int64, p []byte) {
	f.t.Helper()
	if err := f.TryWrite(dataset, off, p); err != nil {
		f.t.Fatal(err)
	}
}

// TryWrite is Write for a dataset that may be read-only.
func (f *Fake) TryWrite(dataset string, off int64, p []byte) error {
	return f.locked(func(s *state) error {
		d := s.Datasets[dataset]
		switch {
		case d == nil:
			return errors.New("no such dataset")
		case s.property(dataset, "readonly") == "on":
			return errors.New("read-only")
		}
		content, err := s.blob(d.Content)
		if err != nil {
			return err
		}
		if need := off + int64(len(p)); int64(len(content)) < need {
			content = append(content, make([]byte, need-int64(len(content)))...)
		}
		copy(content[off:], p)
		d.Content, d.Modified, d.Written = s.store(content), true, d.Written+int64(len(p))
		return nil
	})
}

// Read is the content of a snapshot ("tank/a@s") or a head ("tank/a").
func (f *Fake) Read(name string) []byte {
	f.t.Helper()
	content, err := f.TryRead(name)
	if err != nil {
		f.t.Fatalf("read %s: %v", name, err)
	}
	return content
}

// TryRead is Read that may fail.
func (f *Fake) TryRead(name string) ([]byte, error) {
	var content []byte
	err := f.locked(func(s *state) error {
		dataset, snap, is := strings.Cut(name, "@")
		d := s.Datasets[dataset]
		if d == nil {
			return errors.New("no such dataset")
		}
		id := d.Content
		if is {
			v := d.snapshot(snap)
			if v == nil {
				return errors.New("no such snapshot")
			}
			id = v.Content
		}
		var err error
		content, err = s.blob(id)
		return err
	})
	return content, err
}

// Many makes snapshots m1 to mN of a dataset at once.
func (f *Fake) Many(dataset string, n int) error {
	return f.locked(func(s *state) error {
		d := s.Datasets[dataset]
		if d == nil {
			return errors.New("no such dataset")
		}
		for i := range n {
			d.capture(fmt.Sprintf("m%d", i+1), s.tick())
		}
		return nil
	})
}

// Replicas makes n filesystems below each of two that are there, as a replication by
// the job leaves them: a snapshot @1 of the same GUID, a cursor here, a hold there.
func (f *Fake) Replicas(here, there string, n int, job string) error {
	return f.locked(func(s *state) error {
		for i := range n {
			name := fmt.Sprintf("/fs%04d", i)
			a, b := s.make(here+name, "filesystem"), s.make(there+name, "filesystem")
			a.capture("1", s.tick())
			v, w := a.newest(), *a.newest()
			a.Bookmarks = []*bookmark{{fmt.Sprintf("zrepl_CURSOR_G_%016x_J_%s", v.GUID, job), v.GUID, v.Txg, v.Created, v.Content}}
			w.Txg, w.Holds = s.tick(), map[string]int64{"zrepl_last_received_J_" + job: now()}
			b.Snapshots, b.Props["readonly"] = []*snapshot{&w}, "on"
		}
		return nil
	})
}

// Fault makes calls fail, hang or say something else.
type Fault struct {
	Verb   string // "send", "hold", …; "*" is any
	Args   string // text that the arguments contain
	After  int    // calls that are spared first
	Times  int    // 0: for ever
	Stderr string
	Stdout string // instead of the command's own
	Exit   int
	Hang   bool // does nothing until it is killed; TERM is ignored
	Late   bool // the command is done first, then fails
}

// Fail plants a fault; without any, all are taken back.
func (f *Fake) Fail(faults ...Fault) {
	f.t.Helper()
	f.change(func(s *state) error {
		s.Faults = nil
		for _, one := range faults {
			s.Faults = append(s.Faults, &one)
		}
		return os.WriteFile(filepath.Join(f.dir, "faults"), nil, 0o600) // without it no process looks
	})
}

// Calls are the command lines of all processes so far, in the order of their start.
func (f *Fake) Calls() []string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		f.t.Fatal(err)
	}
	var calls []string
	for line := range strings.Lines(string(text)) {
		var args []string
		if err := json.Unmarshal([]byte(line), &args); err != nil {
			f.t.Fatal(err)
		}
		calls = append(calls, strings.Join(args, " "))
	}
	return calls
}

// Forget empties the log of calls.
func (f *Fake) Forget() {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "calls"), nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// Quota sets how many bytes a receive may bring before the pool is full; negative
// is no limit.
func (f *Fake) Quota(bytes int64) {
	f.t.Helper()
	f.change(func(s *state) error {
		s.Full, s.Limited = bytes, bytes >= 0
		return nil
	})
}

func (f *Fake) locked(do func(s *state) error) error { return withState(f.dir, true, do) }

func (f *Fake) change(do func(s *state) error) {
	f.t.Helper()
	if err := f.locked(do); err != nil {
		f.t.Fatal(err)
	}
}
