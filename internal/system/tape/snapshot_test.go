package tape

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"cairn/internal/testkit/faketape"
	"cairn/ltfs"
)

// now is the tree as it is, made without any of the means that are tested.
func (n *Node) now() *ltfs.Directory {
	d := n.meta
	d.XAttrs = slices.Clone(d.XAttrs)
	for _, c := range n.names {
		if c.file == nil {
			d.Dirs = append(d.Dirs, c.now())
			continue
		}
		file := *c.file
		file.OpenForWrite = c.isPartial()
		file.Extents, file.XAttrs = slices.Clone(file.Extents), slices.Clone(file.XAttrs)
		d.Files = append(d.Files, &file)
	}
	slices.SortFunc(d.Dirs, func(a, b *ltfs.Directory) int { return int(a.UID) - int(b.UID) })
	slices.SortFunc(d.Files, func(a, b *ltfs.File) int { return int(a.UID) - int(b.UID) })
	return &d
}

// An index has the tree of one moment, whatever is changed while it is taken.
func TestTreeOfOneMoment(t *testing.T) {
	for seed := range uint64(60) {
		s := &scrambler{T: t, rng: rand.New(rand.NewPCG(seed, 8))}
		d := faketape.New()
		tp, err := Format(t.Context(), d, "tape", FormatOptions{BlockSize: 4096, Creator: "c", Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		f, err := NewFS(t.Context(), tp, FSOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			s.change(f)
		}
		for range 6 {
			f.mu.Lock()
			want, got := f.root.now(), f.beginTree()
			f.mu.Unlock()
			for more := true; more; more = f.fillSlice(1 + s.rng.IntN(4)) {
				for range s.rng.IntN(4) {
					s.change(f)
				}
			}
			for range 10 {
				s.change(f)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: the tree that was taken is not that of the moment:\n%s\n%s", seed, render(got, ""), render(want, ""))
			}
		}
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func render(d *ltfs.Directory, indent string) (text string) {
	for _, f := range d.Files {
		text += fmt.Sprintf("%s%s %+v\n", indent, f.Name, *f)
	}
	for _, sub := range d.Dirs {
		text += fmt.Sprintf("%s%s/ %d %v %v %v\n%s", indent, sub.Name, sub.UID, sub.ReadOnly, sub.Times, sub.XAttrs, render(sub, indent+"  "))
	}
	return text
}

// scrambler changes a tree at random.
type scrambler struct {
	*testing.T
	rng  *rand.Rand
	open []*Handle
}

func (s *scrambler) folder(f *FS) *Node {
	at := f.Root()
	for s.rng.IntN(4) > 0 {
		var folders []*Node
		for _, e := range at.List() {
			if e.Attr.Dir {
				folders = append(folders, e.Node)
			}
		}
		if len(folders) == 0 {
			break
		}
		at = folders[s.rng.IntN(len(folders))]
	}
	return at
}

// change does something; what is impossible is left.
func (s *scrambler) change(f *FS) {
	ctx := s.Context()
	dir, name := s.folder(f), fmt.Sprint(s.rng.IntN(5))
	c, _ := dir.Lookup(name)
	switch k := s.rng.IntN(12); {
	case k < 2:
		_, _ = dir.Mkdir(name)
	case k < 4:
		_, _ = dir.Create(name)
	case k == 4 && c != nil:
		_ = dir.Remove(name, c.Attr().Dir)
	case k == 5:
		_ = dir.Rename(name, s.folder(f), fmt.Sprint(s.rng.IntN(5)), false)
	case k == 6 && c != nil:
		_ = c.SetXAttr("k", []byte{byte(s.rng.Uint32())})
	case k == 7:
		_ = dir.SetReadOnly(s.rng.IntN(2) == 0)
	case k == 8 && c != nil:
		_ = c.SetTimes(func(t *ltfs.Times) { t.Backup.Sec = s.rng.Int64N(1000) })
	case k == 9 && len(s.open) > 0:
		_ = s.open[0].Flush(ctx)
		s.open[0].Close()
		s.open = s.open[1:]
	case c != nil:
		if h, err := c.Open(true, s.rng.IntN(3) == 0); err == nil {
			_ = h.Write(ctx, []byte("data"), uint64(s.rng.IntN(10)))
			s.open = append(s.open, h)
		}
	}
}
