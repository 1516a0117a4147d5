package guest_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// wantSame wants the newest snapshot of a zvol and its replica equal in GUID and
// content, and gives it.
func wantSame(t *testing.T, what, from, to string) (snapshot string, guid uint64) {
	t.Helper()
	newest := strings.Fields(run(t, "zfs list -Hp -o name,guid -t snapshot -s createtxg "+from+" | tail -1"))
	if len(newest) != 2 {
		t.Fatalf("the newest snapshot is %q", newest)
	}
	snapshot = newest[0][strings.IndexByte(newest[0], '@'):]
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
	if _, err := fmt.Sscan(newest[1], &guid); err != nil {
		t.Fatal(err)
	}
	return snapshot, guid
}

// wantCursor wants both sides the same, and at the sender the cursor of the newest
// version and no other mark: what the run after a broken one leaves. The receiver's
// hold moves with the next step.
func wantCursor(t *testing.T, what, from, to, job string) {
	t.Helper()
	_, guid := wantSame(t, what, from, to)
	want := []string{fmt.Sprintf("%s#zrepl_CURSOR_G_%016x_J_%s", from, guid, job)}
	if got := zfsMarks(t, from); !slices.Equal(got, want) {
		t.Errorf("after %s the sender's marks are %q, want %q", what, got, want)
	}
}

// wantSettled wants both sides the same, and of holds and bookmarks only what a
// finished step of the two jobs leaves.
func wantSettled(t *testing.T, what, from, to, sender, receiver string) {
	t.Helper()
	snapshot, guid := wantSame(t, what, from, to)
	want := []string{fmt.Sprintf("%s#zrepl_CURSOR_G_%016x_J_%s", from, guid, sender), to + snapshot + " zrepl_last_received_J_" + receiver}
	if got := zfsMarks(t, from, to); !slices.Equal(got, want) {
		t.Errorf("after %s the marks are %q, want %q", what, got, want)
	}
}

// zfsMarks are the bookmarks and holds of datasets, as zfs tells them.
func zfsMarks(t *testing.T, names ...string) []string {
	t.Helper()
	var marks []string
	all := strings.Join(names, " ")
	for line := range strings.Lines(run(t, "for d in "+all+"; do zfs list -H -o name -t bookmark $d; done; zfs list -H -o name -t snapshot "+all+" | xargs zfs holds -H")) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		marks = append(marks, strings.Join(f[:min(len(f), 2)], " "))
	}
	slices.Sort(marks)
	return marks
}
