package wrap_test

import (
	"errors"
	"slices"
	"testing"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/memory"
)

// place holds seen and hidden, each with the snapshot @a.
func place(t *testing.T) (*cairn.Endpoint, map[string]cairn.VersionID) {
	t.Helper()
	m := memory.New("m")
	ids := map[string]cairn.VersionID{}
	for _, name := range []string{"hidden", "seen"} {
		if err := m.Create(name, 8192); err != nil {
			t.Fatal(err)
		}
		got, err := m.Endpoint().Snapshots.Snapshot(t.Context(), "@a", []string{name}, false)
		if err != nil || got[0].Err != nil {
			t.Fatal(err, got)
		}
		ids[name] = got[0].Version.VersionID
	}
	return m.Endpoint(), ids
}

func TestSelectHidesWhatIsNotSelected(t *testing.T) {
	all, ids := place(t)
	filter, err := cairn.ParseFilter(map[string]bool{"seen": true})
	if err != nil {
		t.Fatal(err)
	}
	ep, ctx := wrap.Select(all, filter, "db1"), t.Context()
	var names []string
	for l, err := range ep.Lister.List(ctx, cairn.Query{Filter: cairn.All, Names: []string{"hidden", "seen"}}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, l.Dataset.Name)
	}
	if !slices.Equal(names, []string{"seen"}) {
		t.Errorf("lists %q", names)
	}
	for dataset, want := range map[string]cairn.Kind{"hidden": cairn.KindNotFound, "seen": cairn.KindOther} {
		id := ids[dataset]
		calls := map[string]func() error{
			"lease": func() error {
				return ep.Leases.SetLease(ctx, cairn.LeaseSet{Dataset: dataset, Owner: "j", Purpose: cairn.PurposeStep})
			},
			"estimate": func() error {
				_, err := ep.Estimates.Estimate(ctx, []cairn.Step{{Dataset: dataset, To: id}})
				return err
			},
			"open": func() error {
				r, err := ep.Blocks.OpenVersion(ctx, dataset, id)
				if err == nil {
					return r.Close()
				}
				return err
			},
			"send": func() error {
				s, err := ep.Sender.Send(ctx, cairn.Step{Dataset: dataset, To: id}, []cairn.Format{cairn.FormatBlocks})
				if err == nil {
					return s.Body.Close()
				}
				return err
			},
			"bookmark": func() error {
				_, err := ep.Bookmarks.Bookmark(ctx, dataset, id, "#b", false)
				return err
			},
			"changes": func() error {
				for _, err := range ep.Changes.Changed(ctx, dataset, id, cairn.VersionID{}) {
					return err
				}
				return nil
			},
			"digest": func() (err error) {
				for _, err = range ep.Digests.Digest(ctx, dataset, id, cairn.DigestQuery{Unit: cairn.BlockSize}) {
					break
				}
				return err
			},
		}
		for name, call := range calls {
			if err := call(); cairn.KindOf(err) != want {
				t.Errorf("%s of %s: %v", name, dataset, err)
			}
		}
		if _, err := ep.Destroys.Destroy(ctx, dataset, []cairn.VersionID{id}); cairn.KindOf(err) != want {
			t.Errorf("destroy of %s: %v", dataset, err)
		}
	}
}

func TestSelectTakesRightsAway(t *testing.T) {
	all, ids := place(t)
	ep := wrap.Select(all, cairn.All, "db1")
	for _, a := range ep.Abilities() {
		if !slices.Contains([]cairn.Ability{"list", "send", "bookmark", "destroy", "lease", "estimate", "blocks", "changes", "digest"}, a) {
			t.Errorf("a puller may %s", a)
		}
	}
	if _, err := ep.Bookmarks.Bookmark(t.Context(), "seen", ids["seen"], "#b", true); !errors.Is(err, cairn.KindPermission) {
		t.Errorf("a puller gives up the data of a snapshot: %v", err)
	}
}
