package fakezfs_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cairn/internal/testkit/fakezfs"
)

func TestMain(m *testing.M) { fakezfs.Main(m) }

// A stream of one pool lands in another with its content and its GUID; a planted
// fault fails the call it names, and no other.
func TestSendAndReceive(t *testing.T) {
	f := fakezfs.New(t)
	f.Pool("tank")
	f.Pool("vault")
	f.Run("create", "tank/a")
	f.Write("tank/a", 0, []byte("content"))
	f.Run("snapshot", "tank/a@one")
	stream, err := exec.Command(f.ZFS, "send", "tank/a@one").Output()
	if err != nil {
		t.Fatal(err)
	}
	receive := exec.Command(f.ZFS, "receive", "vault/a")
	receive.Stdin = bytes.NewReader(stream)
	if text, err := receive.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if got := f.Read("vault/a@one"); string(got[:7]) != "content" {
		t.Errorf("received %q", got)
	}
	guid := func(pool string) string {
		return f.Run("list", "-Hp", "-t", "snapshot", "-o", "guid", "-d", "1", pool+"/a")
	}
	if a, b := guid("tank"), guid("vault"); a != b || strings.TrimSpace(a) == "" {
		t.Errorf("GUIDs %s and %s", a, b)
	}
	f.Fail(fakezfs.Fault{Verb: "snapshot", Args: "tank/a", Stderr: "out of space\n", Exit: 1})
	if text, err := exec.Command(f.ZFS, "snapshot", "tank/a@two").CombinedOutput(); err == nil || !strings.Contains(string(text), "out of space") {
		t.Errorf("the planted fault: %v, %s", err, text)
	}
	f.Run("snapshot", "vault/a@two")
	f.Run("snapshot", "tank/a@three") // the test's own hand is spared
	if calls := f.Calls(); len(calls) < 6 || calls[0] != "create tank/a" {
		t.Errorf("calls %q", calls)
	}
	if _, err := os.Stat(f.ZFS); err != nil {
		t.Error(err)
	}
}
