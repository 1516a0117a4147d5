package zfsstream_test

import (
	"encoding/binary"

	"cairn/internal/format/zfsstream"
)

// sum4 is Fletcher-4, written down as its definition reads.
type sum4 [4]uint64

func (s *sum4) add(o binary.ByteOrder, p []byte) {
	for ; len(p) >= 4; p = p[4:] {
		s[0] += uint64(o.Uint32(p))
		s[1] += s[0]
		s[2] += s[1]
		s[3] += s[2]
	}
}

func (s *sum4) put(o binary.ByteOrder, p []byte) {
	for i, v := range s {
		o.PutUint64(p[8*i:], v)
	}
}

// walk calls fn with each record and its payload, as far as lengths can be read.
func walk(b []byte, fn func(o binary.ByteOrder, head, payload []byte)) {
	if len(b) < zfsstream.RecordBytes {
		return
	}
	var o binary.ByteOrder = binary.LittleEndian
	if b[8] == 0 {
		o = binary.BigEndian
	}
	for len(b) >= zfsstream.RecordBytes {
		head := b[:zfsstream.RecordBytes]
		b = b[zfsstream.RecordBytes:]
		n := min(payloadLength(o, head), uint64(len(b)))
		fn(o, head, b[:n])
		b = b[n:]
	}
}

func payloadLength(o binary.ByteOrder, head []byte) uint64 {
	switch zfsstream.Type(o.Uint32(head)) {
	case zfsstream.TypeBegin:
		return uint64(o.Uint32(head[4:]))
	case zfsstream.TypeObject:
		if raw := o.Uint32(head[36:]); raw != 0 {
			return uint64(raw)
		}
		return (uint64(o.Uint32(head[28:])) + 7) &^ 7
	case zfsstream.TypeWrite:
		if head[50] != 0 {
			return o.Uint64(head[96:])
		}
		return o.Uint64(head[32:])
	case zfsstream.TypeSpill:
		if n := o.Uint64(head[40:]); n != 0 {
			return n
		}
		return o.Uint64(head[16:])
	case zfsstream.TypeEmbedded:
		return (uint64(o.Uint32(head[52:])) + 7) &^ 7
	}
	return 0
}

// mend puts right sums into b, so that only what they protect is damaged.
func mend(b []byte) {
	var sum sum4
	inside := false
	walk(b, func(o binary.ByteOrder, head, payload []byte) {
		kind := zfsstream.Type(o.Uint32(head))
		const at = zfsstream.RecordBytes - 32
		switch {
		case kind == zfsstream.TypeBegin:
			sum, inside = sum4{}, true
			sum.add(o, head)
			sum.add(o, payload)
			return
		case !inside:
			return
		case kind == zfsstream.TypeEnd:
			sum.put(o, head[8:])
			inside = false
		}
		sum.add(o, head[:at])
		if kind != zfsstream.TypeEnd || o.Uint64(head[40:]) != 0 { // that of a compound header has none
			sum.put(o, head[at:])
		}
		sum.add(o, head[at:])
		sum.add(o, payload)
	})
}
