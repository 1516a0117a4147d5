package ltfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cairn/ltfs"
)

const uuid = "5c1a1e5e-3b62-4f3c-9a43-5d6f2f0a9c11"

var when = ltfs.TimestampOf(time.Date(2026, 11, 20, 6, 53, 34, 88532227, time.UTC))

// nameClasses holds one name per class of bytes that the encoding rules tell
// apart.
var nameClasses = []string{
	"plain.txt", "with space", "na:me %é", "100%", "tab\there", "line\nfeed", "cr\rhere", "bell\x07", "ünïcode", "日本語", "🙂",
	"<&>\"'", "a:b", "%3A", "\uFFFD", ".hidden", "..double", "trailing.", "-", "\u007f", "\u0085", "e\u0301",
}

// randomTree makes an index of about n files that uses every feature of the
// format.
func randomTree(rng *rand.Rand, n int) *ltfs.Index {
	g := &treeMaker{rng: rng, uid: 1}
	root := &ltfs.Directory{Name: "My Volume", UID: 1, Times: g.times()}
	g.fill(root, n, 0)
	return &ltfs.Index{
		Version: ltfs.Version, Creator: "Cairn test", Comment: "commit <&> é", VolumeUUID: uuid, Generation: 1 + rng.Uint64N(1000), UpdateTime: when,
		Self: ltfs.Location{Partition: 'b', Block: 1000}, Previous: ltfs.Location{Partition: 'b', Block: 5}, AllowPolicyUpdate: true,
		Policy: &ltfs.Policy{MaxSize: 1 << 20, Names: []string{"*.txt", "a:b*"}}, HighestUID: g.uid, Lock: ltfs.Locked, Root: root,
		Unknown: []byte("<vendor a=\"1\">kept <b>as</b> is</vendor>\n"),
	}
}

type treeMaker struct {
	rng *rand.Rand
	uid uint64
}

func (g *treeMaker) times() (t ltfs.Times) {
	for _, p := range []*ltfs.Timestamp{&t.Creation, &t.Change, &t.Modify, &t.Access, &t.Backup} {
		*p = ltfs.Timestamp{Sec: g.rng.Int64N(250e9) - 60e9, Nsec: g.rng.Uint32N(1e9)}
	}
	return t
}

func (g *treeMaker) name(i int) string {
	return fmt.Sprintf("%s-%d", nameClasses[g.rng.IntN(len(nameClasses))], i)
}

func (g *treeMaker) xattrs() (list []ltfs.XAttr) {
	for range g.rng.IntN(3) {
		v := make([]byte, g.rng.IntN(40))
		for i := range v {
			v[i] = byte(g.rng.IntN(256))
		}
		if g.rng.IntN(2) == 0 {
			v = []byte("text é <&>")
		}
		list = append(list, ltfs.XAttr{Key: fmt.Sprintf("user:key%d", len(list)), Value: v})
	}
	return list
}

func (g *treeMaker) fill(d *ltfs.Directory, n, depth int) {
	for i := range n {
		g.uid++
		if depth < 5 && g.rng.IntN(8) == 0 {
			sub := &ltfs.Directory{Name: g.name(i), UID: g.uid, Times: g.times(), ReadOnly: g.rng.IntN(2) == 0, XAttrs: g.xattrs()}
			g.fill(sub, g.rng.IntN(n/2+1), depth+1)
			d.Dirs = append(d.Dirs, sub)
			continue
		}
		d.Files = append(d.Files, g.file(i))
	}
}

func (g *treeMaker) file(i int) *ltfs.File {
	f := &ltfs.File{Name: g.name(i), UID: g.uid, Times: g.times(), XAttrs: g.xattrs(), ReadOnly: g.rng.IntN(4) == 0, OpenForWrite: g.rng.IntN(9) == 0}
	switch g.rng.IntN(4) {
	case 0:
		f.IsSymlink, f.Symlink = true, "../"+nameClasses[g.rng.IntN(len(nameClasses))]
	case 1: // empty, or fully sparse
		f.Length = g.rng.Uint64N(1 << 40)
	default:
		var at uint64
		for range 1 + g.rng.IntN(3) {
			at += g.rng.Uint64N(1 << 20) // a gap
			count := 1 + g.rng.Uint64N(1<<30)
			f.Extents = append(f.Extents, ltfs.Extent{FileOffset: at, Partition: 'a' + byte(g.rng.IntN(2)), StartBlock: 4 + g.rng.Uint64N(1<<40),
				ByteOffset: g.rng.Uint32N(524288), ByteCount: count})
			at += count
		}
		f.Length = at + g.rng.Uint64N(1000)
	}
	if g.rng.IntN(10) == 0 {
		f.Unknown = []byte("<x:y xmlns:x='z'/>\n")
	}
	return f
}

func write(t testing.TB, ix *ltfs.Index) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := ix.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Fatalf("WriteTo says %d bytes and wrote %d", n, b.Len())
	}
	return b.Bytes()
}
