package ltfs_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"cairn/ltfs"
)

// An index cut at any byte gives back a part of what it was: no file that it did
// not hold, none changed, and every file whose element ends before the cut.
func TestTornIndexKeepsWhatStandsBeforeTheTear(t *testing.T) {
	ix := randomTree(rand.New(rand.NewPCG(4, 4)), 12)
	text := write(t, ix)
	whole := map[string]ltfs.Node{}
	for name, n := range ix.All() {
		whole[name] = n
	}
	read := 0
	for cut := 0; cut < len(text)-1; cut += 1 + cut%7 {
		torn, lost, err := ltfs.ReadTornIndex(bytes.NewReader(text[:cut]))
		if err != nil {
			if bytes.Contains(text[:cut], []byte("<contents>")) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			continue
		}
		if lost == nil {
			t.Fatalf("cut at %d: the index is taken for whole", cut)
		}
		read++
		files := 0
		for name, n := range torn.All() {
			if n.File != nil {
				files++
				if was := whole[name].File; was == nil || !reflect.DeepEqual(was, n.File) {
					t.Fatalf("cut at %d: %s is not what it was", cut, name)
				}
			} else if whole[name].Dir == nil {
				t.Fatalf("cut at %d: folder %s appeared", cut, name)
			}
		}
		if ended := bytes.Count(text[:cut], []byte("</file>")); files != ended {
			t.Fatalf("cut at %d: %d files, %d stand before it", cut, files, ended)
		}
	}
	if read < 100 {
		t.Fatalf("only %d torn indexes were read", read)
	}
	if back, lost, err := ltfs.ReadTornIndex(bytes.NewReader(text)); err != nil || lost != nil || !reflect.DeepEqual(back, ix) {
		t.Errorf("a whole index: lost %v, %v", lost, err)
	}
}

func FuzzReadTornIndex(f *testing.F) {
	text := write(f, randomTree(rand.New(rand.NewPCG(2, 2)), 5))
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Fuzz(func(t *testing.T, text []byte) {
		ix, lost, err := ltfs.ReadTornIndex(bytes.NewReader(text))
		if err != nil {
			return
		}
		if whole, err := ltfs.ReadIndex(bytes.NewReader(text)); (err == nil) != (lost == nil) || err == nil && !reflect.DeepEqual(whole, ix) {
			t.Fatalf("torn: %v, whole: %v", lost, err)
		}
		ix.Check(nil)
	})
}
