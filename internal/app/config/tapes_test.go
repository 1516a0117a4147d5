package config_test

import (
	"slices"
	"testing"

	"cairn/internal/app/config"
)

// A tape is found by name or drive, and completed by what holds for every tape.
func TestTape(t *testing.T) {
	c, err := parse("tapes.yml", []byte(`
tapes:
  "*": {sync: [close], fsync: data}
  offsite: {drive: /dev/sg1, fsync: incremental}
  other: {drive: /dev/sg2, sync: [unmount]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		ask, drive, fsync, sync string
	}{
		{"offsite", "/dev/sg1", "incremental", "close"}, {"/dev/sg1", "/dev/sg1", "incremental", "close"},
		{"other", "/dev/sg2", "data", "unmount"}, {"/srv/folder", "", "data", "close"}, {config.EveryTape, "", "data", "close"},
	} {
		if got := c.Tape(w.ask); got.Drive != w.drive || got.Fsync != w.fsync || !slices.Equal(got.Sync, []string{w.sync}) {
			t.Errorf("%s: %+v", w.ask, got)
		}
	}
}
