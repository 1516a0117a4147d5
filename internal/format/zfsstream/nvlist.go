package zfsstream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// List is a name-value list as OpenZFS packs it into headers and tokens, in the
// order of the stream.
type List []Pair

// Pair is one entry. Value is nil for a bare flag, else bool, int64, uint64,
// string, []byte, []int64, []uint64, []string, List or []List.
type Pair struct {
	Name  string
	Value any
}

// Lookup is the value of the first entry of that name and type.
func Lookup[T any](l List, name string) (T, bool) {
	for _, p := range l {
		if v, is := p.Value.(T); is && p.Name == name {
			return v, true
		}
	}
	var none T
	return none, false
}

// The data types of entries, as the format numbers them.
const (
	nvFlag        = 1
	nvByte        = 2
	nvInt16       = 3
	nvUint64      = 8
	nvString      = 9
	nvByteArray   = 10
	nvInt16Array  = 11
	nvUint64Array = 16
	nvStringArray = 17
	nvTime        = 18
	nvList        = 19
	nvListArray   = 20
	nvBool        = 21
	nvInt8        = 22
	nvUint8       = 23
	nvBoolArray   = 24
	nvInt8Array   = 25
	nvUint8Array  = 26
)

const (
	encodingNative = 0
	encodingXDR    = 1
	maxDepth       = 20 // of lists in lists
	maxPairs       = 1 << 20
)

var errList = errors.New("a name-value list that is cut or damaged")

// parseList reads a packed list: four bytes that name the encoding, then the list.
func parseList(b []byte) (List, error) {
	if len(b) < 12 {
		return nil, errList
	}
	p := &listParser{b: b[4:], o: binary.BigEndian, left: maxPairs}
	switch {
	case b[0] == encodingXDR:
		p.xdr = true
	case b[0] == encodingNative && b[1] == 1:
		p.o = binary.LittleEndian
	case b[0] != encodingNative || b[1] != 0:
		return nil, fmt.Errorf("a name-value list in encoding %d, %d", b[0], b[1])
	}
	p.take(8) // version and flags, which say nothing to a reader
	l := p.list(0)
	return l, p.err
}

// listParser walks a packed list. After an error all it reads is empty.
type listParser struct {
	b    []byte
	o    binary.ByteOrder
	xdr  bool
	left int // entries that may still come
	err  error
}

func (p *listParser) take(n int) []byte {
	if p.err == nil && (n < 0 || n > len(p.b)) {
		p.err = errList
	}
	if p.err != nil {
		return nil
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *listParser) u32() uint32 {
	if b := p.take(4); b != nil {
		return p.o.Uint32(b)
	}
	return 0
}

func (p *listParser) list(depth int) List {
	l := List{}
	for p.err == nil {
		size := int(int32(p.u32()))
		if p.xdr {
			p.u32() // its size in memory
		}
		if size == 0 || p.err != nil {
			return l
		}
		if p.left--; p.left < 0 || depth > maxDepth {
			p.err = errors.New("a name-value list beyond all measure")
			return nil
		}
		if p.xdr {
			l = append(l, p.xdrPair(depth))
		} else {
			l = append(l, p.nativePair(size, depth))
		}
	}
	return nil
}

// nativePair reads an entry as it lies in the memory of the sender: a head of 16
// bytes, of which four are read, the name, the value, each filled up to 8 bytes.
// The entries of a list in it follow behind it.
func (p *listParser) nativePair(size, depth int) Pair {
	body := p.take(size - 4)
	if len(body) < 12 {
		p.err = errList
		return Pair{}
	}
	nameLen, count, kind := int(p.o.Uint16(body)), int(int32(p.o.Uint32(body[4:]))), p.o.Uint32(body[8:])
	at := (16+nameLen+7)&^7 - 4
	if nameLen == 0 || 12+nameLen > len(body) || at > len(body) {
		p.err = errList
		return Pair{}
	}
	pair := Pair{Name: string(body[12 : 12+nameLen-1])}
	switch kind {
	case nvList:
		pair.Value = p.list(depth + 1)
	case nvListArray:
		pair.Value = p.lists(count, depth)
	case nvStringArray:
		value := &listParser{b: body[at:], o: p.o}
		value.take(8 * count) // pointers
		pair.Value, p.err = value.strings(count), errors.Join(p.err, value.err)
	default:
		value := &listParser{b: body[at:], o: p.o}
		pair.Value, p.err = value.value(kind, count), errors.Join(p.err, value.err)
	}
	return pair
}

// xdrPair reads an entry in the encoding of RFC 4506.
func (p *listParser) xdrPair(depth int) Pair {
	pair := Pair{Name: p.xdrString()}
	kind, count := p.u32(), int(int32(p.u32()))
	switch kind {
	case nvList:
		p.take(8)
		pair.Value = p.list(depth + 1)
	case nvListArray:
		pair.Value = p.lists(count, depth)
	case nvString:
		pair.Value = p.xdrString()
	case nvStringArray:
		pair.Value = p.strings(count)
	default:
		pair.Value = p.value(kind, count)
	}
	return pair
}

func (p *listParser) xdrString() string {
	n := int(int32(p.u32()))
	s := string(p.take(n))
	p.take(-n & 3)
	return s
}

func (p *listParser) lists(count, depth int) []List {
	var ls []List
	for ; count > 0 && p.err == nil; count-- {
		if p.xdr {
			p.take(8)
		}
		ls = append(ls, p.list(depth+1))
	}
	return ls
}

func (p *listParser) strings(count int) []string {
	var all []string
	for ; count > 0 && p.err == nil; count-- {
		if p.xdr {
			all = append(all, p.xdrString())
		} else {
			all = append(all, p.cString())
		}
	}
	return all
}

// cString reads up to the next zero byte.
func (p *listParser) cString() string {
	for i, c := range p.b {
		if c == 0 {
			return string(p.take(i + 1)[:i])
		}
	}
	p.err = errList
	return ""
}

// value reads what is neither a string in XDR nor made of lists.
func (p *listParser) value(kind uint32, count int) any {
	switch {
	case kind == nvFlag:
		return nil
	case kind == nvString:
		return p.cString()
	case kind == nvBool:
		return p.u32() != 0
	case kind == nvByteArray:
		b := append([]byte{}, p.take(count)...)
		if p.xdr {
			p.take(-count & 3)
		}
		return b
	case kind == nvByte || kind == nvInt8 || kind == nvUint8:
		return p.number(nvUint8, 1)
	case kind >= nvInt16 && kind <= nvUint64 || kind == nvTime:
		return p.number(kind, width(kind))
	case kind >= nvInt16Array && kind <= nvUint64Array:
		return p.numbers(kind-nvInt16Array+nvInt16, count)
	case kind == nvBoolArray || kind == nvInt8Array || kind == nvUint8Array:
		return p.numbers(map[uint32]uint32{nvBoolArray: nvInt16 + 2, nvInt8Array: nvUint8, nvUint8Array: nvUint8}[kind], count)
	}
	p.err = fmt.Errorf("a name-value list with an entry of type %d", kind)
	return nil
}

// width is the bytes of a number in memory.
func width(kind uint32) int {
	switch kind {
	case nvUint8:
		return 1
	case nvInt16, nvInt16 + 1:
		return 2
	case nvInt16 + 2, nvInt16 + 3:
		return 4
	}
	return 8
}

// number reads one number of n bytes; XDR has none below four.
func (p *listParser) number(kind uint32, n int) any {
	if p.xdr {
		n = max(n, 4)
	}
	b := p.take(n)
	if b == nil {
		return nil
	}
	var v uint64
	switch n {
	case 1:
		v = uint64(b[0])
	case 2:
		v = uint64(p.o.Uint16(b))
	case 4:
		v = uint64(p.o.Uint32(b))
	default:
		v = p.o.Uint64(b)
	}
	if kind == nvTime || kind != nvUint8 && kind%2 == 1 { // the signed ones have odd numbers
		shift := 64 - 8*n
		return int64(v<<shift) >> shift
	}
	return v
}

func (p *listParser) numbers(kind uint32, count int) any {
	if p.xdr {
		p.u32() // the count, again
	}
	unsigned, signed := []uint64{}, []int64{}
	for ; count > 0 && p.err == nil; count-- {
		switch v := p.number(kind, width(kind)).(type) {
		case uint64:
			unsigned = append(unsigned, v)
		case int64:
			signed = append(signed, v)
		}
	}
	if len(signed) > 0 {
		return signed
	}
	return unsigned
}

// appendNative packs flags, numbers and strings for OpenZFS on a little-endian
// machine, which is what the kernel takes in a stream's header and in a token.
func (l List) appendNative(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, encodingNative, 1, 0, 0)
	b = le.AppendUint32(b, 0) // version
	b = le.AppendUint32(b, 1) // names are unique
	for _, p := range l {
		kind, count, value := uint32(nvFlag), uint32(0), []byte(nil)
		switch v := p.Value.(type) {
		case uint64:
			kind, count, value = nvUint64, 1, le.AppendUint64(nil, v)
		case string:
			kind, count, value = nvString, 1, append([]byte(v), 0)
		}
		at := (16 + len(p.Name) + 1 + 7) &^ 7
		size := at + (len(value)+7)&^7
		start := len(b)
		b = le.AppendUint32(b, uint32(size))
		b = le.AppendUint16(b, uint16(len(p.Name)+1))
		b = le.AppendUint16(b, 0)
		b = le.AppendUint32(b, count)
		b = le.AppendUint32(b, kind)
		b = append(b, p.Name...)
		b = append(b, make([]byte, at-16-len(p.Name))...)
		b = append(b, value...)
		b = append(b, make([]byte, start+size-len(b))...)
	}
	return le.AppendUint32(b, 0)
}
