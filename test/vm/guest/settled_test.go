package guest_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// wantSettled wants the newest snapshots of a zvol and its replica equal in GUID and
// content, and of holds and bookmarks only what a finished run of the two jobs leaves.
func wantSettled(t *testing.T, what, from, to, sender, receiver string) {
	t.Helper()
	newest := strings.Fields(run(t, "zfs list -Hp -o name,guid -t snapshot -s createtxg "+from+" | tail -1"))
	if len(newest) != 2 {
		t.Fatalf("the newest snapshot is %q", newest)
	}
	snapshot := newest[0][strings.IndexByte(newest[0], '@'):]
	if got := strings.TrimSpace(run(t, "zfs get -Hp -o value guid "+to+snapshot)); got != newest[1] {
		t.Errorf("after %s the GUID of %s is %s, at the receiver %s", what, snapshot, newest[1], got)
	}
	var contents [2][]byte
	for i, dataset := range []string{from, to} {
		content, err := zvolRead(dataset + snapshot)
		if err != nil {
			t.Fatal(err)
		}
		contents[i] = content
	}
	if !bytes.Equal(contents[0], contents[1]) {
		t.Errorf("after %s the content of %s differs", what, snapshot)
	}
	var guid uint64
	if _, err := fmt.Sscan(newest[1], &guid); err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprintf("%s#zrepl_CURSOR_G_%016x_J_%s", from, guid, sender), to + snapshot + " zrepl_last_received_J_" + receiver}
	if got := zfsMarks(t, from, to); !slices.Equal(got, want) {
		t.Errorf("after %s the marks are %q, want %q", what, got, want)
	}
}

// zfsMarks are the bookmarks and holds of two datasets, as zfs tells them.
func zfsMarks(t *testing.T, from, to string) []string {
	t.Helper()
	var marks []string
	for line := range strings.Lines(run(t, fmt.Sprintf("zfs list -H -o name -t bookmark %[1]s; zfs list -H -o name -t bookmark %[2]s; zfs list -H -o name -t snapshot %[1]s %[2]s | xargs zfs holds -H", from, to))) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		marks = append(marks, strings.Join(f[:min(len(f), 2)], " "))
	}
	slices.Sort(marks)
	return marks
}
