package rpc_test

import (
	"bytes"
	"reflect"
	"testing"

	"cairn"
	"cairn/internal/testkit/memory"
)

func listings(t *testing.T, ep *cairn.Endpoint) []*cairn.Listing {
	t.Helper()
	var all []*cairn.Listing
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true, Leases: true, Sizes: true, Partial: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// Pull, push and read over each transport: both directions of a stream.
func TestReplicateBothWays(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			here, v := newPlace(t, "here")
			there := memory.New("there")
			source, sink := remote(t, kind, here.Endpoint()), remote(t, kind, there.Endpoint())
			if source.Info.Place != "here" || source.Info.Identity != "client" {
				t.Errorf("info %+v", source.Info)
			}
			step := cairn.Step{Dataset: "db", To: v.VersionID}
			got, err := replicate(t.Context(), source, sink, step)
			if err != nil || len(got.Versions) != 1 || got.Versions[0] != v.VersionID {
				t.Fatalf("received %+v, %v", got, err)
			}
			want, err := here.Content("db", "@a")
			if err != nil {
				t.Fatal(err)
			}
			if have, err := there.Content("db", "@a"); err != nil || !bytes.Equal(have, want) {
				t.Errorf("content differs: %v", err)
			}
			if near, far := listings(t, there.Endpoint()), listings(t, sink); !reflect.DeepEqual(near, far) {
				t.Errorf("listings differ:\n%+v\n%+v", near, far)
			}
			r, err := sink.Blocks.OpenVersion(t.Context(), "db", v.VersionID)
			if err != nil {
				t.Fatal(err)
			}
			have := make([]byte, r.Size())
			if err := r.ReadAt(t.Context(), have, 0); err != nil || !bytes.Equal(have, want) {
				t.Errorf("read differs: %v", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
