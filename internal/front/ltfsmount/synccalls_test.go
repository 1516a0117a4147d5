//go:build linux

package ltfsmount_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"cairn/internal/testkit/tapemount"
)

// needSyncCalls skips where the kernel does not hand sync(2) on: it does to a
// fuseblk file system since 6.18.
func needSyncCalls(t *testing.T) {
	t.Helper()
	tapemount.Need(t)
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	must(t, err)
	var major, minor int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil || major < 6 || major == 6 && minor < 18 {
		t.Skipf("this place does not offer a kernel that hands sync(2) on: %s", release)
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("this place does not offer loop devices")
	}
}

func kindOfMount(t *testing.T, dir string) string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == dir {
			return f[2]
		}
	}
	return ""
}

// syncfs(2) and sync(2) return when data and index are on tape: a server that is
// killed right after loses nothing. Where the calls are switched off it does, which
// tells this test from luck.
func TestSyncCallsReachTheTape(t *testing.T) {
	needSyncCalls(t)
	for _, c := range []struct {
		name string
		off  bool
		call func(t *testing.T, dir string)
	}{
		{"syncfs", false, func(t *testing.T, dir string) { tool(t, "sync", "-f", dir) }},
		{"sync", false, func(*testing.T, string) { syscall.Sync() }},
		{"switched off", true, func(t *testing.T, dir string) { tool(t, "sync", "-f", dir) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			tp := tapemount.NewTape(t)
			m := tapemount.Mount(t, tp, tapemount.Options{NoSync: c.off})
			if kind := kindOfMount(t, m.Dir); strings.HasPrefix(kind, "fuseblk") == c.off {
				t.Fatalf("mounted as %s", kind)
			}
			f, err := os.Create(m.Path("file"))
			must(t, err)
			want := bytes.Repeat([]byte("promised"), 4000) // less than a record: nothing goes to the tape by itself
			_, err = f.Write(want)
			must(t, err)
			c.call(t, m.Dir)
			m.Kill()
			m = mount(t, tp, "unmount")
			got, err := os.ReadFile(m.Path("file"))
			switch {
			case c.off && !errors.Is(err, os.ErrNotExist):
				t.Errorf("without the call the file is there too: %d bytes, %v", len(got), err)
			case !c.off && (err != nil || !bytes.Equal(got, want)):
				t.Errorf("%d bytes of %d are there (%v)", len(got), len(want), err)
			}
			m.Unmount()
		})
	}
}

// umount(2) of such a mount returns when the last index is on tape, in both
// partitions: the server may be killed at once.
func TestUnmountCallWaits(t *testing.T) {
	needSyncCalls(t)
	tp := tapemount.NewTape(t)
	m := mount(t, tp, "unmount")
	must(t, os.WriteFile(m.Path("file"), []byte("promised"), 0o644))
	must(t, syscall.Unmount(m.Dir, 0))
	must(t, m.Server.Process.Kill())
	_ = m.Server.Wait()
	again := mount(t, tp, "unmount")
	if got, err := os.ReadFile(again.Path("file")); err != nil || string(got) != "promised" {
		t.Errorf("%q, %v", got, err)
	}
	if generation := again.Attr("", "ltfs.indexLocation"); !strings.HasPrefix(generation, "a:") {
		t.Errorf("the newest index stands at %s: the index partition was behind", generation)
	}
	again.Unmount()
}
