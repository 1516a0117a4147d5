package segment_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/segment"
	"cairn/internal/testkit/fakedisk"
)

// vouch gives every batch header in p the checksum that makes it count, and keeps
// its runs small enough for a test.
func vouch(p []byte) {
	le := binary.LittleEndian
	for at := 0; at+cairn.BlockSize <= len(p); at += cairn.BlockSize {
		h := p[at : at+cairn.BlockSize]
		if le.Uint32(h) != 0x31475343 {
			continue
		}
		for i := 0; i < int(le.Uint16(h[68:])) && 80+16*(i+1) <= len(h); i++ {
			e := h[80+16*i:]
			le.PutUint32(e[8:], le.Uint32(e[8:])&0xffff)
		}
		le.PutUint32(h[4:], crc32.Checksum(h[8:], crc32.MakeTable(crc32.Castagnoli)))
	}
}

func fileOf(t testing.TB, p []byte) blockio.File {
	t.Helper()
	f, err := fakedisk.New().Create("segment")
	if err == nil {
		_, err = f.WriteAt(p, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// FuzzRecover: no bytes make recovery, reading, checking or closing a segment
// panic, and the index it writes finds what the headers did.
func FuzzRecover(f *testing.F) {
	file := fileOf(f, nil)
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
	for _, known := range []int64{0, s.Length()} {
		f.Add(true, known, whole)
		f.Add(false, known, whole[:len(whole)-100])
		f.Add(false, known, whole[cairn.BlockSize:])
	}
	f.Fuzz(func(t *testing.T, counts bool, known int64, p []byte) {
		if len(p) > 1<<20 || known < 0 {
			return
		}
		if counts {
			p = append([]byte(nil), p...)
			vouch(p)
		}
		r, err := segment.Recover(fileOf(t, p), id, known, false)
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
	idx := fileOf(t, nil)
	if err := s.Seal(idx); err != nil {
		t.Fatal(err)
	}
	again, _, err := segment.OpenSealed(fileOf(t, nil), idx, id, s.Length(), s.Epoch())
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
