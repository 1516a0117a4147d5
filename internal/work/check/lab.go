package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"cairn"
	"cairn/internal/format/blocks"
)

// size is that of most datasets: small, and with a tail that is no whole block of
// 64 KiB. big is more than two resume points of the blocks format.
const (
	size = 67 * cairn.BlockSize
	big  = 10 << 20
)

// lab is where one rule works: the endpoint, and datasets below a folder of its
// own. Its methods end the rule when the endpoint does not do what any rule needs.
type lab struct {
	*cairn.Endpoint
	ctx      context.Context
	fixture  Fixture
	folder   string
	patience time.Duration
	made     []string
}

// fail ends the rule.
func (l *lab) fail(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

// close releases what a rule has opened. A stream that was broken off may say so
// again.
func (l *lab) close(c io.Closer) { _ = c.Close() }

func (l *lab) ok(what string, err error) {
	if err != nil {
		l.fail("%s: %v", what, err)
	}
}

// want ends the rule unless err has one of the kinds.
func (l *lab) want(what string, err error, kinds ...cairn.Kind) {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return
		}
	}
	if err == nil {
		l.fail("%s: succeeded, want %v", what, kinds)
	}
	l.fail("%s: %v (kind %s), want %v", what, err, cairn.KindOf(err), kinds)
}

// name is a dataset's full name; it is removed when the rule ends.
func (l *lab) name(short string) string {
	full := l.folder + "/" + short
	if !slices.Contains(l.made, full) {
		l.made = append(l.made, full)
	}
	return full
}

func (l *lab) remove() error {
	if l.fixture.Remove == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), 10*time.Second)
	defer cancel()
	var all []error
	slices.Sort(l.made)
	for _, name := range slices.Backward(l.made) {
		if err := l.fixture.Remove(ctx, name); err != nil && !errors.Is(err, cairn.KindNotFound) {
			all = append(all, fmt.Errorf("remove %s: %w", name, err))
		}
	}
	return errors.Join(all...)
}

// create makes a writable volume.
func (l *lab) create(short string, size int64) string {
	name := l.name(short)
	l.ok("create "+name, l.fixture.Create(l.ctx, name, size))
	return name
}

func (l *lab) write(ds string, off int64, p []byte) {
	l.ok("write to "+ds, l.fixture.Write(l.ctx, ds, off, p))
}

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed string, n int) []byte {
	h := fnv.New64a()
	h.Write([]byte(seed))
	r := rand.New(rand.NewPCG(h.Sum64(), 1))
	p := make([]byte, 0, n+8)
	for len(p) < n {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p[:n:n]
}

// point is a version that a rule knows the content of.
type point struct {
	cairn.VersionID
	created time.Time
	content []byte
}

func newPoint(name string, content []byte) point {
	return point{cairn.VersionID{Name: name, GUID: cairn.GUID(rand.Uint64() | 1)}, time.Unix(1700000000+rand.Int64N(1e6), 0).UTC(), content}
}

// next is the content of p with some blocks changed and one cleared.
func (p point) next(name string, changed ...int) point {
	content := bytes.Clone(p.content)
	for _, i := range changed {
		copy(content[i*cairn.BlockSize:], noise(name, cairn.BlockSize))
	}
	clear(content[5*cairn.BlockSize : 6*cairn.BlockSize])
	return newPoint(name, content)
}

// history is three versions: data with a hole, some changes, more changes.
func history() []point {
	content := noise("a", size)
	clear(content[20*cairn.BlockSize : 40*cairn.BlockSize])
	a := newPoint("@a", content)
	b := a.next("@b", 1, 2, 30, 66)
	return []point{a, b, b.next("@c", 0, 2, 50)}
}

// dataset makes a dataset with the first n versions of a history: written and
// captured where that is possible, received where it is not.
func (l *lab) dataset(short string, n int) (string, []point) {
	name := l.name(short)
	points := history()[:n]
	if l.fixture.Create == nil || l.fixture.Write == nil || l.Snapshots == nil {
		l.receiveAll(name, points)
		return name, points
	}
	l.create(short, size)
	var before []byte
	for i := range points {
		l.writeChanged(name, before, points[i].content)
		points[i].VersionID = l.snapshot(name, points[i].Name).VersionID
		before = points[i].content
	}
	return name, points
}

// writeChanged writes the blocks in which after differs from before (nil: zeroes),
// neighbours at once.
func (l *lab) writeChanged(ds string, before, after []byte) {
	var run cairn.Extent
	for _, e := range append(differing(before, after), cairn.Extent{Offset: -1}) {
		if e.Offset == run.End() {
			run.Length += e.Length
			continue
		}
		if run.Length > 0 {
			l.write(ds, run.Offset, after[run.Offset:run.End()])
		}
		run = e
	}
}

// differing lists the blocks that differ, one extent each; before nil is zeroes.
func differing(before, after []byte) []cairn.Extent {
	var out []cairn.Extent
	zero := make([]byte, cairn.BlockSize)
	for off := 0; off < len(after); off += cairn.BlockSize {
		end := min(off+cairn.BlockSize, len(after))
		old := zero[:end-off]
		if end <= len(before) {
			old = before[off:end]
		}
		if !bytes.Equal(old, after[off:end]) {
			out = append(out, cairn.Extent{Offset: int64(off), Length: int64(end - off), Kind: cairn.ExtentData})
		}
	}
	return out
}

func (l *lab) snapshot(ds, name string) cairn.Version {
	got, err := l.Snapshots.Snapshot(l.ctx, name, []string{ds}, false)
	l.ok("snapshot "+ds+name, err)
	if len(got) != 1 || got[0].Dataset != ds {
		l.fail("snapshot of one dataset has results %+v", got)
	}
	l.ok("snapshot "+ds+name, got[0].Err)
	return got[0].Version
}

// find lists one dataset with everything; nil when it is not there.
func (l *lab) find(ds string) *cairn.Listing {
	q := cairn.Query{Filter: cairn.All, Names: []string{ds}, Want: cairn.Want{Versions: true, Leases: true, Sizes: true, Partial: true}}
	var found *cairn.Listing
	for row, err := range l.Lister.List(l.ctx, q) {
		l.ok("list "+ds, err)
		if row.Dataset.Name != ds || found != nil {
			l.fail("listing of %s alone also has %s", ds, row.Dataset.Name)
		}
		found = row
	}
	return found
}

func (l *lab) list(ds string) *cairn.Listing {
	row := l.find(ds)
	if row == nil {
		l.fail("%s is not listed", ds)
	}
	return row
}

// versions are the names of a dataset's versions, in order; empty when it is not
// there.
func (l *lab) versions(ds string) []string {
	row := l.find(ds)
	if row == nil {
		return nil
	}
	var names []string
	for _, v := range row.Versions {
		names = append(names, v.Name)
	}
	return names
}

func (l *lab) wantVersions(ds, when string, want ...string) {
	if got := l.versions(ds); !slices.Equal(got, want) {
		l.fail("%s has versions %v %s, want %v", ds, got, when, want)
	}
}

// read is the content of a snapshot, by whichever ability can tell.
func (l *lab) read(ds string, id cairn.VersionID) []byte {
	if l.Blocks == nil {
		if l.Sender == nil {
			panic(notOffered("content cannot be read back: neither blocks nor send"))
		}
		return l.sent(cairn.Step{Dataset: ds, To: id}, nil)
	}
	r, err := l.Blocks.OpenVersion(l.ctx, ds, id)
	l.ok("open "+ds+id.Name, err)
	defer l.close(r)
	p := make([]byte, r.Size())
	l.ok("read "+ds+id.Name, r.ReadAt(l.ctx, p, 0))
	return p
}

func (l *lab) wantContent(ds string, points ...point) {
	for _, p := range points {
		if got := l.read(ds, p.VersionID); !bytes.Equal(got, p.content) {
			l.fail("%s%s does not read what was captured: %s", ds, p.Name, firstDifference(got, p.content))
		}
	}
}

func firstDifference(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("first at byte %d", i)
		}
	}
	return "equal"
}

// send opens a stream in the format that the rules read.
func (l *lab) send(step cairn.Step) *cairn.Stream {
	kind, format := l.speaks()
	if !slices.Contains(l.Info.Sends[kind], format) {
		panic(notOffered("it does not send " + string(format)))
	}
	s, err := l.Sender.Send(l.ctx, step, []cairn.Format{format})
	l.ok("send "+step.Dataset+step.To.Name, err)
	return s
}

// sent applies a whole stream to base (nil: zeroes) and returns the content.
func (l *lab) sent(step cairn.Step, base []byte) []byte {
	s := l.send(step)
	defer l.close(s.Body)
	content, _, err := l.apply(s.Body, base)
	l.ok("read the stream of "+step.Dataset+step.To.Name, err)
	return content
}

// apply decodes a stream onto base and counts what it carried.
func (l *lab) apply(r io.Reader, base []byte) ([]byte, blocks.Counts, error) {
	if l.zvols() {
		return applyZvol(r, base)
	}
	in, err := blocks.NewReader(r, blocks.ReaderOptions{})
	if err != nil {
		return nil, blocks.Counts{}, err
	}
	content := make([]byte, in.Header().Size)
	copy(content, base)
	for {
		rec, err := in.Next()
		if err == io.EOF { //nolint:errorlint // only EOF itself vouches for the stream
			return content, in.Counts(), nil
		}
		if err != nil {
			return nil, in.Counts(), err
		}
		part := content[rec.Offset : rec.Offset+rec.Length]
		clear(part)
		copy(part, rec.Data)
	}
}
