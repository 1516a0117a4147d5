package realzfs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/internal/testkit/realzfs"
)

// programs puts scripts first on the PATH that note how they were called.
func programs(t *testing.T, zpool string) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	for name, then := range map[string]string{"zpool": zpool, "udevadm": ":", "zfs": "echo volume yes -"} {
		text := "#!/bin/sh\necho " + name + " $* >>" + dir + "/calls\n" + then + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, err := os.ReadFile(filepath.Join(dir, "calls"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// What was made is destroyed, also when a later pool cannot be made.
func TestPoolsGo(t *testing.T) {
	calls := programs(t, `case "$*" in create*second*) echo cannot create >&2; exit 1 ;; esac`)
	dir := filepath.Join(t.TempDir(), "pools")
	_, err := realzfs.In(dir, "first", "second")
	if err == nil || !strings.Contains(err.Error(), "cannot create") || !strings.Contains(err.Error(), "zpool create") {
		t.Errorf("got %v", err)
	}
	if got := calls(); strings.Count(got, "zpool destroy -f first") != 1 || strings.Contains(got, "destroy -f second") {
		t.Errorf("called:\n%s", got)
	}
}

// A pool that does not go is an error.
func TestPoolThatStays(t *testing.T) {
	programs(t, `[ "$1" = create ] || { echo pool is busy >&2; exit 1; }`)
	z, err := realzfs.In(filepath.Join(t.TempDir(), "pools"), "first")
	if err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err == nil || !strings.Contains(err.Error(), "pool is busy") {
		t.Errorf("got %v", err)
	}
}
