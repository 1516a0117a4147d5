//go:build linux

package tapemount_test

import (
	"errors"
	"os"
	"testing"

	"cairn/internal/testkit/tapemount"
)

func TestMain(m *testing.M) {
	os.Exit(tapemount.Main(m)) //nolint:forbidigo // as TestMain must
}

// What is written is there after unmounting, and lost after a kill.
func TestUnmountAndKill(t *testing.T) {
	tapemount.Need(t)
	m := tapemount.Mount(t, tapemount.NewTape(t), tapemount.Options{})
	write := func(name string) {
		if err := os.WriteFile(m.Path(name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("kept")
	m.Again()
	write("lost")
	m.Kill()
	m = tapemount.Mount(t, m.Tape, tapemount.Options{})
	if got, err := os.ReadFile(m.Path("kept")); err != nil || string(got) != "kept" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := os.Stat(m.Path("lost")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("lost: %v", err)
	}
	m.Unmount()
}
