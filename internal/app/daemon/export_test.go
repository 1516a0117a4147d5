package daemon

import (
	"errors"
	"slices"
	"testing"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
	"cairn/internal/testkit/memory"
)

// offeredExports is a place with db@a, db@b, db#a and an empty other.
func offeredExports(t *testing.T) *exports {
	t.Helper()
	m := &inMemory{Place: memory.New("m")}
	for _, name := range []string{"db", "other"} {
		if err := m.makeSmall(name); err != nil {
			t.Fatal(err)
		}
	}
	h := newHere(t.Context(), &config.Config{}, m, nil)
	for _, name := range []string{"@a", "@b"} {
		got, err := h.Endpoint.Snapshots.Snapshot(t.Context(), name, []string{"db"}, false)
		if err != nil || got[0].Err != nil {
			t.Fatal(err, got)
		}
		if name == "@a" {
			if _, err := h.Endpoint.Bookmarks.Bookmark(t.Context(), "db", got[0].Version.VersionID, "#a", false); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &exports{here: h}
}

func TestExportsAreHeadsAndSnapshotsByName(t *testing.T) {
	x := offeredExports(t)
	got, err := x.List(t.Context())
	if want := []string{"db", "db@a", "db@b", "other"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, missing := range []string{"", "nope", "db@c", "db#a", "../db"} {
		if _, err := x.Open(t.Context(), missing); !errors.Is(err, cairn.KindNotFound) {
			t.Errorf("%q: %v", missing, err)
		}
	}
}

func TestSnapshotsTellOnlyWhatChangedSinceOlderVersions(t *testing.T) {
	x := offeredExports(t)
	for name, want := range map[string][]string{"db@a": nil, "db@b": {"qemu:dirty-bitmap:a"}} {
		e, err := x.Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range e.Contexts {
			got = append(got, c.Name)
		}
		if !slices.Equal(got, want) || e.Device != nil {
			t.Errorf("%s has contexts %q, want %q; writable %v", name, got, want, e.Device != nil)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyWhatWasAskedForIsServed(t *testing.T) {
	x := offeredExports(t)
	for _, c := range []struct {
		asked, want []string
	}{{[]string{"db"}, []string{"db", "db@a", "db@b"}}, {[]string{"db@a", "other"}, []string{"db@a", "other"}}} {
		allow, err := x.here.wanted(t.Context(), x, c.asked)
		if err != nil {
			t.Fatal(err)
		}
		limited := &exports{here: x.here, allow: allow}
		if got, err := limited.List(t.Context()); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q serves %q, %v", c.asked, got, err)
		}
		if _, err := limited.Open(t.Context(), "db@b"); (err == nil) != slices.Contains(c.want, "db@b") {
			t.Errorf("%q: opening db@b: %v", c.asked, err)
		}
	}
	err := ServeVolumes(t.Context(), x.here, client.Serve{Volumes: []string{"nope"}, Network: "unix", Address: "x"}, nil)
	if !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	err = ServeVolumes(t.Context(), x.here, client.Serve{Volumes: []string{"db"}, Network: "tcp", Address: "192.0.2.1:1"}, nil)
	if !errors.Is(err, cairn.KindInvalid) {
		t.Errorf("unprotected on the network: %v", err)
	}
}
