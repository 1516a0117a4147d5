package segment_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/segment"
)

// vouch gives every batch header in p the checksum that makes it count, and keeps
// its runs small enough for a test.
func vouch(p []byte) {
	le := binary.LittleEndian
	for at := 0; at+cairn.BlockSize <= len(p); at += cairn.BlockSize {
		h := p[at : at+cairn.BlockSize]
		if le.Uint32(h) != 0x31475343 && le.Uint32(h) != 0x31465343 {
			continue
		}
		for i := 0; i < int(le.Uint16(h[68:])) && 80+16*(i+1) <= len(h); i++ {
			e := h[80+16*i:]
			le.PutUint32(e[8:], le.Uint32(e[8:])&0xffff)
		}
		le.PutUint32(h[4:], crc32.Checksum(h[8:], crc32.MakeTable(crc32.Castagnoli)))
	}
}

// inMemory is a file that costs nothing.
type inMemory struct{ p []byte }

func (f *inMemory) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(f.p)) {
		n = copy(p, f.p[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *inMemory) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(f.p)) {
		f.p = append(f.p, make([]byte, end-int64(len(f.p)))...)
	}
	return copy(f.p[off:], p), nil
}

func (f *inMemory) Size() (int64, error)                 { return int64(len(f.p)), nil }
func (f *inMemory) Data(off int64) (int64, int64, error) { return off, int64(len(f.p)), nil }
func (f *inMemory) Sync() error                          { return nil }
func (f *inMemory) Close() error                         { return nil }
func (f *inMemory) Truncate(int64) error                 { return errors.ErrUnsupported }
func (f *inMemory) Allocate(int64, int64) error          { return errors.ErrUnsupported }
func (f *inMemory) Punch(int64, int64) error             { return errors.ErrUnsupported }
func (f *inMemory) Zero(int64, int64) error              { return errors.ErrUnsupported }

func fileOf(p []byte) blockio.File { return &inMemory{p} }

// stub is how much of each block the fuzzer gets to see: a header with a few entries.
// The rest is zeroes, on which it would only waste its time.
const stub = 176

// stubs and blocksOf turn a file into its stubs and back.
func stubs(p []byte) (out []byte) {
	for at := 0; at < len(p); at += cairn.BlockSize {
		out = append(out, p[at:min(at+stub, len(p))]...)
	}
	return out
}

func blocksOf(stubs []byte) []byte {
	p := make([]byte, len(stubs)/stub*cairn.BlockSize+len(stubs)%stub)
	for i := 0; i*stub < len(stubs); i++ {
		copy(p[i*cairn.BlockSize:], stubs[i*stub:min((i+1)*stub, len(stubs))])
	}
	return p
}

// FuzzRecover: no bytes make recovery, reading, checking or closing a segment
// panic, and the index it writes finds what the headers did.
func FuzzRecover(f *testing.F) {
	file := fileOf(nil)
	s := segment.New(file, id)
	for epoch := range uint64(2) {
		b, err := s.Append(1, epoch, []segment.Record{{First: 3, Count: 2, Kind: segment.Data, Bytes: blocks(1, 2)},
			{First: 100, Count: 70, Kind: segment.Zero}, {First: 9 + epoch, Count: 1, Kind: segment.Lost}})
		if err == nil {
			err = s.Sync()
		}
		if err != nil {
			f.Fatal(err)
		}
		s.Publish(b)
	}
	whole := make([]byte, s.Length())
	if _, err := file.ReadAt(whole, 0); err != nil {
		f.Fatal(err)
	}
	few := stubs(whole)
	for _, known := range []int64{0, s.Length()} {
		f.Add(true, known, few)
		f.Add(false, known, few[:len(few)-100])
		f.Add(true, known, few[stub:])
	}
	f.Fuzz(func(t *testing.T, counts bool, known int64, few []byte) {
		if len(few) > 32*stub || known < 0 {
			return
		}
		p := blocksOf(few)
		if counts {
			vouch(p)
		}
		r, err := segment.Recover(fileOf(p), id, known, counts)
		if err != nil {
			t.Fatal(err)
		}
		checkSegment(t, r.Segment)
		if r.Segment.Length()%cairn.BlockSize != 0 && r.Segment.Length() != known {
			t.Fatalf("%d bytes long", r.Segment.Length())
		}
	})
}

// checkSegment reads all that a recovered segment has, and again through the index
// file that it writes.
func checkSegment(t *testing.T, s *segment.Segment) {
	t.Helper()
	has := &extent.Bitmap{}
	if err := s.Union(has); err != nil {
		t.Fatal(err)
	}
	s.Check()
	idx := fileOf(nil)
	if err := s.Seal(idx); err != nil {
		t.Fatal(err)
	}
	again, _, err := segment.OpenSealed(fileOf(nil), idx, id, s.Length(), s.Epoch())
	if err != nil {
		t.Fatal(err)
	}
	for first, count := range has.All() {
		at := first
		for _, run := range find(t, s, first, count) {
			if run.First != at {
				t.Fatalf("run at %d, want %d", run.First, at)
			}
			at += run.Count
			if run.Kind == segment.Data {
				_ = s.Read(run, make([]byte, run.Count*cairn.BlockSize)) // what rotted says so
			}
		}
		if at != first+count {
			t.Fatalf("blocks %d to %d are there, found up to %d", first, first+count, at)
		}
		if a, b := fmt.Sprint(find(t, s, first, count)), fmt.Sprint(find(t, again, first, count)); a != b {
			t.Fatalf("found %s, by the index file %s", a, b)
		}
	}
	got := &extent.Bitmap{}
	if err := again.Union(got); err != nil {
		t.Fatal(err)
	}
	if got.Count() != has.Count() {
		t.Fatalf("the index has %d blocks, not %d", got.Count(), has.Count())
	}
}
