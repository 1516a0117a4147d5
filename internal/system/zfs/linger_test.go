package zfs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/child"
)

// A dataset whose process was given up and has not ended is locked, and no other; it
// is free when the process has ended.
func TestAbandonedProcessLocksItsDataset(t *testing.T) {
	program := filepath.Join(t.TempDir(), "zfs")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n[ \"$1\" = version ] && printf 'zfs-2.4.4-1\\nzfs-kmod-2.4.4-1\\n' && exit\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := Open(t.Context(), Options{ZFS: program, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := p.start(ctx, child.Options{Args: []string{"receive", "-s", "tank/a"}})
	if err != nil {
		t.Fatal(err)
	}
	c.since = time.Now()
	p.lingering = append(p.lingering, c) // as Wait does when no signal ends it
	_, err = p.look(t.Context(), "lease", "tank/a")
	if cairn.KindOf(err) != cairn.KindBusy || !strings.Contains(err.Error(), "zfs receive") {
		t.Errorf("work on the dataset of an abandoned process: %v", err)
	}
	if _, err := p.Endpoint(Job{}).Destroys.Destroy(t.Context(), "tank/a", nil); cairn.KindOf(err) != cairn.KindBusy {
		t.Errorf("destroy in it: %v", err)
	}
	if err := p.free("lease", "tank/b"); err != nil {
		t.Errorf("another dataset: %v", err)
	}
	cancel()
	_ = c.Wait() // it was ended
	<-c.Ended()
	if err := p.free("lease", "tank/a"); err != nil || len(p.lingering) != 0 {
		t.Errorf("after it has ended: %v, %d linger", err, len(p.lingering))
	}
}

func TestSubjectOf(t *testing.T) {
	for args, want := range map[string]string{
		"receive -s -o readonly=on tank/a": "tank/a", "send -i @1 tank/a@2": "tank/a", "send -t 1-abc": "", "hold tag tank/a@1 tank/a@2": "tank/a",
		"destroy tank/a@1,2": "tank/a", "bookmark tank/a@1 tank/a#m": "tank/a", "list -Hp tank/a": "", "version": "",
	} {
		if got := subjectOf(strings.Fields(args)); got != want {
			t.Errorf("zfs %s is about %q, want %q", args, got, want)
		}
	}
}
