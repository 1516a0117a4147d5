package verify_test

import (
	"errors"
	"testing"

	"cairn"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/verify"
)

// side makes a volume of one block of that content, with a snapshot.
func side(t *testing.T, content byte) (*memory.Place, verify.Side) {
	t.Helper()
	p := memory.New("m")
	if err := p.Create("db", 4*cairn.BlockSize); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, cairn.BlockSize)
	for i := range block {
		block[i] = content
	}
	if err := p.Write("db", cairn.BlockSize, block); err != nil {
		t.Fatal(err)
	}
	ep := p.Endpoint()
	got, err := ep.Snapshots.Snapshot(t.Context(), "@a", []string{"db"}, false)
	if err != nil {
		t.Fatal(err)
	}
	return p, verify.Side{Endpoint: ep, Dataset: "db", Version: got[0].Version}
}

func TestCompareSaysWhatDiffers(t *testing.T) {
	_, a := side(t, 1)
	_, same := side(t, 1)
	_, other := side(t, 2)
	r, err := verify.Compare(t.Context(), a, same, verify.Options{})
	if err != nil || !r.Equal() || r.Read+r.Zeroes != 4*cairn.BlockSize {
		t.Errorf("%+v %v", r, err)
	}
	r, err = verify.Compare(t.Context(), a, other, verify.Options{})
	if err != nil || r.Equal() || len(r.Differs) != 1 || r.Differs[0].Offset != cairn.BlockSize || r.Differs[0].Length != cairn.BlockSize {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := verify.Compare(t.Context(), a, other, verify.Options{Heal: true}); !errors.Is(err, cairn.KindConflict) {
		t.Errorf("healing from another version: %v", err)
	}
	bare := *other.Endpoint
	bare.Digests = nil
	other.Endpoint = &bare
	if _, err := verify.Compare(t.Context(), a, other, verify.Options{}); !errors.Is(err, cairn.KindUnsupported) {
		t.Errorf("a side that cannot hash: %v", err)
	}
}
