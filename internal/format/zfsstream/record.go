package zfsstream

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cairn"
)

// Type says what a record is. The numbers stand in the stream.
type Type uint32

// The record types.
const (
	TypeBegin       Type = 0
	TypeObject      Type = 1 // an object is made or changed; a bonus buffer may follow
	TypeFreeObjects Type = 2 // a range of object numbers holds nothing
	TypeWrite       Type = 3 // a block of an object
	TypeFree        Type = 4 // a range of an object reads as zeroes
	TypeEnd         Type = 5
	TypeByRef       Type = 6 // a block like an earlier one: streams of zfs send -D
	TypeSpill       Type = 7
	TypeEmbedded    Type = 8 // a block so small that it stood in its pointer
	TypeObjectRange Type = 9 // encryption parameters of a range of objects
	TypeRedact      Type = 10
)

var typeNames = [...]string{"begin", "object", "freeobjects", "write", "free", "end", "write_byref", "spill", "write_embedded", "object_range", "redact"}

// String is the type's word.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("record type %d", uint32(t))
}

// Types is how many record types there are.
const Types = len(typeNames)

// Bounds of the format.
const (
	RecordBytes = 312      // a record without its payload
	MaxPayload  = 16 << 20 // OpenZFS's largest block
	sumBytes    = 32
	sumAt       = RecordBytes - sumBytes
)

// Record is one record of a stream. Fields that a type does not have are zero.
type Record struct {
	Type       Type
	Object     uint64 // the object; of FreeObjects and ObjectRange the first
	Count      uint64 // of FreeObjects and ObjectRange: how many objects
	Offset     uint64 // bytes; of Write, Embedded, Free, Redact
	Length     uint64 // bytes before compression; of Free, all ones is to the end
	ObjectType uint32 // of Object, Write: what the object is, as OpenZFS numbers it
	BonusType  uint32 // of Object
	BlockSize  uint32 // of Object, bytes
	Compressed Compression
	EmbedType  uint8  // of Embedded: 0 is data
	Packed     uint64 // of Embedded: bytes of the payload that count
	Flags      uint8
	Payload    []byte // valid until the next call

	toGUID  uint64
	payload uint64 // its length in the stream
	sum     fletcher
	endSum  fletcher // of End: over everything since its Begin
}

// parseRecord reads a record that is no Begin.
func parseRecord(o binary.ByteOrder, b []byte) (Record, error) {
	r := Record{Type: Type(o.Uint32(b)), sum: parseFletcher(o, b[sumAt:])}
	u64 := func(at int) uint64 { return o.Uint64(b[8+at:]) }
	u32 := func(at int) uint32 { return o.Uint32(b[8+at:]) }
	u8 := func(at int) uint8 { return b[8+at] }
	switch r.Type {
	case TypeObject:
		r.Object, r.ObjectType, r.BonusType, r.BlockSize, r.Flags = u64(0), u32(8), u32(12), u32(16), u8(27)
		r.toGUID = u64(32)
		if r.payload = uint64(u32(28)); r.payload == 0 {
			r.payload = (uint64(u32(20)) + 7) &^ 7
		}
	case TypeFreeObjects:
		r.Object, r.Count, r.toGUID = u64(0), u64(8), u64(16)
	case TypeWrite:
		r.Object, r.ObjectType, r.Offset, r.Length, r.toGUID = u64(0), u32(8), u64(16), u64(24), u64(32)
		r.Flags, r.Compressed = u8(41), Compression(u8(42))
		if r.payload = r.Length; r.Compressed != 0 {
			r.payload = u64(88)
		}
	case TypeFree, TypeRedact:
		r.Object, r.Offset, r.Length, r.toGUID = u64(0), u64(8), u64(16), u64(24)
	case TypeEnd:
		r.endSum, r.toGUID = parseFletcher(o, b[8:]), u64(32)
	case TypeSpill:
		r.Object, r.Length, r.toGUID, r.Flags, r.Compressed = u64(0), u64(8), u64(16), u8(24), Compression(u8(25))
		if r.payload = u64(32); r.payload == 0 {
			r.payload = r.Length
		}
	case TypeEmbedded:
		r.Object, r.Offset, r.Length, r.toGUID = u64(0), u64(8), u64(16), u64(24)
		r.Compressed, r.EmbedType, r.Packed = Compression(u8(32)), u8(33), uint64(u32(44))
		r.payload = (r.Packed + 7) &^ 7
	case TypeObjectRange:
		r.Object, r.Count, r.toGUID, r.Flags = u64(0), u64(8), u64(16), u8(60)
	case TypeByRef:
		return Record{}, &cairn.Error{Op: "read zfs stream", Kind: cairn.KindUnsupported,
			Err: errors.New("it is deduplicated (zfs send -D)"), Hint: "send it without -D, or pass it through `zstream redup` first"}
	default:
		return Record{}, fmt.Errorf("unknown %v", r.Type)
	}
	return r, r.check()
}

// check holds a record to what any sender writes.
func (r *Record) check() error {
	switch {
	case r.payload > MaxPayload || r.Length > MaxPayload && r.payload > 0:
		return fmt.Errorf("%v record with a payload of %d bytes", r.Type, r.payload)
	case r.payload%4 != 0:
		return fmt.Errorf("%v record with a payload of %d bytes, not in whole words", r.Type, r.payload)
	case r.Type == TypeWrite && (r.Length == 0 || r.payload == 0 || r.payload > r.Length):
		return fmt.Errorf("write of %d bytes in %d", r.Length, r.payload)
	}
	return nil
}
