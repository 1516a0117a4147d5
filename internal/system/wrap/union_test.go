package wrap_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/memory"
)

// twoSides is a place of volumes and one of ZFS, with the datasets' filters.
func twoSides(t *testing.T, volumes, zfs []string) (*cairn.Endpoint, *memory.Place, *memory.Place) {
	t.Helper()
	v, z := memory.New("here"), memory.New("here")
	for p, names := range map[*memory.Place][]string{v: volumes, z: zfs} {
		for _, name := range names {
			if err := p.Create(name, 8192); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err := cairn.ParseFilter(map[string]bool{"<": true, "tank/left out": false})
	if err != nil {
		t.Fatal(err)
	}
	return wrap.Union(wrap.Side{Endpoint: v.Endpoint(), Filter: cairn.All}, wrap.Side{Endpoint: z.Endpoint(), Filter: f}), v, z
}

func listed(t *testing.T, ep *cairn.Endpoint, f cairn.Filter) (string, error) {
	t.Helper()
	var all []string
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: f}) {
		if err != nil {
			return strings.Join(all, " "), err
		}
		all = append(all, l.Dataset.Name)
	}
	return strings.Join(all, " "), nil
}

func TestUnionListsByName(t *testing.T) {
	both, _, _ := twoSides(t, []string{"b", "d", "x"}, []string{"a", "c", "tank/left out", "y"})
	if got, err := listed(t, both, cairn.All); got != "a b c d x y" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := listed(t, both, cairn.Filter{{Name: "c", Keep: true}, {Name: "d", Keep: true}}); got != "c d" || err != nil {
		t.Errorf("filtered: %s, %v", got, err)
	}
	for range both.Lister.List(t.Context(), cairn.Query{Filter: cairn.All}) {
		break // a caller that stops early leaves nothing behind
	}
	same, _, _ := twoSides(t, []string{"a", "b"}, []string{"b"})
	if got, err := listed(t, same, cairn.All); got != "a" || !errors.Is(err, cairn.KindConflict) {
		t.Errorf("two of one name: %s, %v", got, err)
	}
}

func TestUnionRoutesByDataset(t *testing.T) {
	both, v, z := twoSides(t, []string{"a", "c"}, []string{"b", "tank/left out"})
	captured, err := both.Snapshots.Snapshot(t.Context(), "@s", []string{"a", "b", "gone", "c", "tank/left out"}, false)
	if err != nil {
		t.Fatal(err)
	}
	var failed []string
	for _, c := range captured {
		if c.Err != nil {
			failed = append(failed, c.Dataset)
			if !errors.Is(c.Err, cairn.KindNotFound) {
				t.Error(c.Err)
			}
		}
	}
	if !slices.Equal(failed, []string{"gone", "tank/left out"}) {
		t.Errorf("failed %v", failed)
	}
	for p, want := range map[*memory.Place]string{v: "a@s c@s", z: "b@s"} {
		if got := versionsOf(t, p.Endpoint()); got != want {
			t.Errorf("versions %s, want %s", got, want)
		}
	}
	if _, err := both.Snapshots.Snapshot(t.Context(), "@t", []string{"a", "b"}, true); !errors.Is(err, cairn.KindUnsupported) {
		t.Errorf("a group across kinds: %v", err)
	}
	if _, err := both.Snapshots.Snapshot(t.Context(), "@t", []string{"a", "c"}, true); err != nil {
		t.Errorf("a group of one kind: %v", err)
	}
	if err := both.Receiver.Abort(t.Context(), "gone"); err != nil {
		t.Errorf("abort of nothing: %v", err)
	}
}

func versionsOf(t *testing.T, ep *cairn.Endpoint) string {
	t.Helper()
	var all []string
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l.Versions {
			all = append(all, l.Dataset.Name+v.Name)
		}
	}
	return strings.Join(all, " ")
}

func TestUnionRefusesWhatNoSideTakes(t *testing.T) {
	both, _, _ := twoSides(t, nil, nil)
	body := &closes{}
	_, err := both.Receiver.Receive(t.Context(), &cairn.Stream{Header: cairn.StreamHeader{Dataset: "x", Kind: cairn.KindFilesystem, Format: cairn.FormatZFS}, Body: body}, cairn.ReceiveOptions{})
	if !errors.Is(err, cairn.KindUnsupported) || !strings.Contains(err.Error(), "root_fs") || !body.closed {
		t.Errorf("%v, body closed: %v", err, body.closed)
	}
}

type closes struct{ closed bool }

func (c *closes) Read([]byte) (int, error) { return 0, errors.New("nothing may be read") }
func (c *closes) Close() error             { c.closed = true; return nil }

// A zvol goes to the side of ZFS, unless a volume has its name already; where there
// is no ZFS it becomes a volume.
func TestUnionTranslatesLast(t *testing.T) {
	plain, raw := recorded(t, "plain"), recorded(t, "a.raw")
	both := func(first string) string {
		taken := ""
		formats := map[cairn.DatasetKind][]cairn.Format{cairn.KindZvol: {cairn.FormatZFS}}
		z := &cairn.Endpoint{Info: cairn.Info{Sends: formats, Accepts: formats}, Receiver: taking{&taken, "zfs"}}
		v := volumes(t)
		if first != "" {
			receive(t, v, zvolStream(t, first, plain, int64(len(raw))))
		}
		v.Receiver = taking{&taken, "volumes"}
		u := wrap.Union(wrap.Side{Endpoint: v, Filter: cairn.All}, wrap.Side{Endpoint: z, Filter: cairn.All})
		if _, err := listed(t, u, cairn.All); err != nil {
			t.Fatal(err)
		}
		receive(t, u, zvolStream(t, "z", plain, int64(len(raw))))
		return taken
	}
	if got := both(""); got != "zfs" {
		t.Errorf("a new zvol went to %s", got)
	}
	if got := both("z"); got != "volumes" {
		t.Errorf("a zvol that is a volume here went to %s", got)
	}
}

// taking tells who received.
type taking struct {
	who  *string
	name string
}

func (r taking) Receive(_ context.Context, s *cairn.Stream, _ cairn.ReceiveOptions) (cairn.Received, error) {
	*r.who = r.name
	return cairn.Received{}, s.Body.Close()
}

func (r taking) Abort(context.Context, string) error { return nil }

// What one side cannot take in one stream, the union does not offer.
func TestUnionSeveral(t *testing.T) {
	zfs := map[cairn.DatasetKind][]cairn.Format{cairn.KindFilesystem: {cairn.FormatZFS}, cairn.KindZvol: {cairn.FormatZFS}}
	a := &cairn.Endpoint{Info: cairn.Info{Sends: zfs, Accepts: zfs, Several: map[cairn.DatasetKind]int{cairn.KindFilesystem: 7, cairn.KindZvol: 7}}}
	b := &cairn.Endpoint{Info: cairn.Info{Accepts: map[cairn.DatasetKind][]cairn.Format{cairn.KindZvol: {cairn.FormatZFS}}}}
	got := wrap.Union(wrap.Side{Endpoint: a, Filter: cairn.All}, wrap.Side{Endpoint: b, Filter: cairn.All}).Info.Several
	if len(got) != 1 || got[cairn.KindFilesystem] != 7 {
		t.Errorf("got %v", got)
	}
}
