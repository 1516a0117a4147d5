package blocks_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"testing"

	"cairn"
	"cairn/internal/format/blocks"
)

// small is a stream with every kind of record and encoding a, in little room: a
// point needs more than 4096 extents, or 4 MiB of data, so that is in points.
func small(t testing.TB, c blocks.Compression) []byte {
	return smallOf(t, blocks.WriterOptions{Compression: c}, 64*cairn.BlockSize)
}

func smallOf(t testing.TB, o blocks.WriterOptions, size int64) []byte {
	const k = cairn.BlockSize
	text := bytes.Repeat([]byte("block "), 2*k/6+1)[:2*k]
	return write(t, header(size), o, []op{
		{kind: blocks.KindData, off: 0, length: k, data: text[:k]},
		{kind: blocks.KindZero, off: k, length: 8 * k},
		{kind: blocks.KindData, off: 9 * k, length: 2 * k, data: text},
		{kind: blocks.KindDiscard, off: 20 * k, length: 30 * k},
	})
}

// points is a stream with a point in it, of records without content.
func points(t testing.TB) []byte {
	const k = cairn.BlockSize
	var ops []op
	for i := range int64(4100) {
		ops = append(ops, op{kind: blocks.Kind(2 + i%2), off: i * k, length: k})
	}
	return write(t, header(4100*k), blocks.WriterOptions{}, ops)
}

func mustBeCorrupt(t *testing.T, what string, at int, stream []byte) {
	t.Helper()
	if _, _, err := applyFrom(bytes.NewReader(stream)); !errors.Is(err, cairn.KindCorrupt) {
		t.Fatalf("%s at %d: %v", what, at, err)
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	for _, c := range []blocks.Compression{blocks.CompressNone, blocks.CompressS2, blocks.CompressZstd} {
		stream := small(t, c)
		step := map[blocks.Compression]int{blocks.CompressS2: 1, blocks.CompressZstd: 3, blocks.CompressNone: 41}[c]
		for bit := 0; bit < 8*len(stream); bit += step {
			stream[bit/8] ^= 1 << (bit % 8)
			mustBeCorrupt(t, "flipped bit", bit, stream)
			stream[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestEveryFlippedBitNearAPointIsFound(t *testing.T) {
	stream := points(t)
	at := recordAt(stream, 4096)
	for bit := 8 * (at - 32); bit < 8*(at+128); bit += 3 {
		stream[bit/8] ^= 1 << (bit % 8)
		mustBeCorrupt(t, "flipped bit", bit, stream)
		stream[bit/8] ^= 1 << (bit % 8)
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	stream := small(t, blocks.CompressS2)
	for n := range len(stream) {
		_, _, err := applyFrom(bytes.NewReader(stream[:n]))
		if !errors.Is(err, cairn.KindCorrupt) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d of %d: %v", n, len(stream), err)
		}
	}
}

// headerSize is the length the stream's header gives itself.
func headerSize(stream []byte) int { return int(binary.LittleEndian.Uint32(stream[12:])) }

// recordAt finds where record n begins.
func recordAt(stream []byte, n int) int {
	at := headerSize(stream)
	for range n {
		at += 32 + int(binary.LittleEndian.Uint32(stream[at+4:]))
	}
	return at
}

func TestRecordsCannotBeMoved(t *testing.T) {
	stream := small(t, blocks.CompressS2)
	var at []int
	for n := range 6 {
		at = append(at, recordAt(stream, n))
	}
	if at[5] != len(stream) {
		t.Fatalf("records at %v of %d bytes", at, len(stream))
	}
	rec := func(n int) []byte { return stream[at[n]:at[n+1]] }
	head := stream[:at[0]]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	other := header(64 * cairn.BlockSize)
	other.To.GUID++
	foreign := write(t, other, blocks.WriterOptions{}, nil)
	for name, s := range map[string][]byte{
		"swapped":         join(head, rec(0), rec(2), rec(1), rec(3), rec(4)),
		"repeated":        join(head, rec(0), rec(1), rec(1), rec(2), rec(3), rec(4)),
		"left out":        join(head, rec(0), rec(1), rec(3), rec(4)),
		"last left out":   join(head, rec(0), rec(1), rec(2), rec(4)),
		"trailing":        join(stream, []byte{0}),
		"two streams":     join(stream, stream),
		"foreign end":     join(head, foreign[headerSize(foreign):]),
		"foreign header":  join(foreign[:headerSize(foreign)], stream[at[0]:]),
		"only the header": head,
	} {
		if _, _, err := applyFrom(bytes.NewReader(s)); !errors.Is(err, cairn.KindCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whoever can compute checksums can still not make the reader reserve what it
// does not get, nor leave the volume.
func TestHostileLengthsAreBounded(t *testing.T) {
	var before, after runtime.MemStats
	for name, change := range map[string]func(head []byte){
		"stored 4 GiB":     func(h []byte) { binary.LittleEndian.PutUint32(h[4:], 1<<32-1) },
		"data of 2^62":     func(h []byte) { binary.LittleEndian.PutUint64(h[16:], 1<<62) },
		"negative offset":  func(h []byte) { binary.LittleEndian.PutUint64(h[8:], 1<<63) },
		"overflowing end":  func(h []byte) { h[0] = 2; clear(h[4:8]); binary.LittleEndian.PutUint64(h[16:], 1<<63-1) },
		"unknown kind":     func(h []byte) { h[0] = 9 },
		"unknown encoding": func(h []byte) { h[1] = 9 },
		"lying length":     func(h []byte) { binary.LittleEndian.PutUint64(h[16:], 2*cairn.BlockSize) },
		"reserved":         func(h []byte) { h[2] = 1 },
		"unpacks to 4 GiB": func(h []byte) { copy(h[32:], "\xff\xff\xff\xff\x0f") },
		"over the bound": func(h []byte) {
			binary.LittleEndian.PutUint32(h[4:], blocks.MaxData+cairn.BlockSize-1)
			binary.LittleEndian.PutUint64(h[16:], blocks.MaxData+cairn.BlockSize)
		},
	} {
		for _, c := range []blocks.Compression{blocks.CompressS2, blocks.CompressZstd} {
			stream := smallOf(t, blocks.WriterOptions{Compression: c}, 1<<30)
			at := headerSize(stream)
			n := int(binary.LittleEndian.Uint32(stream[at+4:]))
			change(stream[at:])
			seal(stream, 0, at, n)
			runtime.ReadMemStats(&before)
			_, _, err := applyFrom(bytes.NewReader(stream))
			runtime.ReadMemStats(&after)
			if !errors.Is(err, cairn.KindCorrupt) {
				t.Errorf("%s: %v", name, err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
				t.Errorf("%s: used %d bytes", name, used)
			}
		}
	}
}

// seal gives a record, at at with n bytes of payload, a right checksum.
func seal(stream []byte, number uint64, at, n int) {
	var id [24]byte
	binary.LittleEndian.PutUint64(id[16:], number)
	binary.LittleEndian.PutUint64(id[:], 0x1111)
	binary.LittleEndian.PutUint64(id[8:], 0x2222)
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Checksum(id[:], table)
	crc = crc32.Update(crc, table, stream[at:at+28])
	crc = crc32.Update(crc, table, stream[at+32:at+32+n])
	binary.LittleEndian.PutUint32(stream[at+28:], crc)
}

// The planted fault of a codec that trusts its checksums: content that is not
// what the sender hashed, under a right checksum, is found by the final hash.
func TestFinalHashCoversContent(t *testing.T) {
	stream := small(t, blocks.CompressNone)
	at := headerSize(stream)
	stream[at+32] ^= 1
	seal(stream, 0, at, cairn.BlockSize)
	n, _, err := applyFrom(bytes.NewReader(stream))
	if !errors.Is(err, cairn.KindCorrupt) || n != 5 {
		t.Errorf("after %d records: %v", n, err)
	}
}

// Counts are compared too: they are what a receiver reports.
func TestCountsAreCompared(t *testing.T) {
	stream := small(t, "")
	at := recordAt(stream, 4)
	stream[at+32]++
	seal(stream, 4, at, 64)
	mustBeCorrupt(t, "count", at, stream)
}

func TestNewerLayoutIsNamed(t *testing.T) {
	stream := small(t, "")
	binary.LittleEndian.PutUint32(stream[8:], 3)
	n := headerSize(stream)
	binary.LittleEndian.PutUint32(stream[n-4:], crc32.Checksum(stream[:n-4], crc32.MakeTable(crc32.Castagnoli)))
	if _, _, err := applyFrom(bytes.NewReader(stream)); !errors.Is(err, cairn.KindUnsupported) {
		t.Error(err)
	}
}

func TestTokensBelongToTheirStream(t *testing.T) {
	stream := points(t)
	h := header(4100 * cairn.BlockSize)
	image := make([]byte, h.Size)
	token, _, err := apply(image, image, stream[:len(stream)-1], nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) || point(t, token).Position != 4096*cairn.BlockSize {
		t.Fatal(err, point(t, token))
	}
	refused := func(name string, err error, want cairn.Kind) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want kind %v", name, err, want)
		}
	}
	for i := range token {
		token[i] ^= 4
		_, err := blocks.NewWriter(io.Discard, h, blocks.WriterOptions{Resume: token})
		refused("flipped token", err, cairn.KindInvalid)
		token[i] ^= 4
	}
	other := h
	other.From.GUID++
	_, err = blocks.NewWriter(io.Discard, other, blocks.WriterOptions{Resume: token})
	refused("other base", err, cairn.KindConflict)

	rest := write(t, h, blocks.WriterOptions{Resume: token}, nil)
	_, _, err = apply(image, image, rest, nil)
	refused("rest without token", err, cairn.KindConflict)
	_, _, err = apply(image, image, stream, token)
	refused("beginning with token", err, cairn.KindConflict)
	if _, _, err = apply(image, image, rest, token); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// A receiver that goes on from content other than what the sender hashed never
// gets to the end: here its token is that of the same place in a stream with
// other content.
func TestResumedHashCoversTheWhole(t *testing.T) {
	const k = cairn.BlockSize
	h := header(2048 * k)
	ops := func(b byte) []op {
		p := bytes.Repeat([]byte{b}, 2000*k)
		return []op{{kind: blocks.KindData, off: 0, length: int64(len(p)), data: p}}
	}
	image := make([]byte, h.Size)
	tokenOf := func(b byte) []byte {
		s := write(t, h, blocks.WriterOptions{}, ops(b))
		token, _, err := apply(image, image, s[:len(s)-1], nil)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		return token
	}
	mine, theirs := tokenOf(1), tokenOf(2)
	if point(t, mine).Position == 0 || point(t, mine).Position != point(t, theirs).Position {
		t.Fatal("no common point to test with")
	}
	_, _, err := apply(image, image, write(t, h, blocks.WriterOptions{Resume: theirs}, ops(2)), mine)
	if !errors.Is(err, cairn.KindConflict) {
		t.Errorf("got %v", err)
	}
}
