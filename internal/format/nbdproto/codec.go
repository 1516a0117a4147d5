package nbdproto

import "encoding/binary"

var be = binary.BigEndian

// OptionHeader precedes an option's data.
type OptionHeader struct {
	Option Option
	Length uint32 // of the data that follows
}

// AppendOption appends an option with its data.
func AppendOption(b []byte, o Option, data []byte) []byte {
	b = be.AppendUint64(b, MagicOption)
	b = be.AppendUint32(b, uint32(o))
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// ParseOptionHeader reads OptionHeaderSize bytes.
func ParseOptionHeader(b []byte) (h OptionHeader, ok bool) {
	if len(b) < OptionHeaderSize || be.Uint64(b) != MagicOption {
		return h, false
	}
	return OptionHeader{Option(be.Uint32(b[8:])), be.Uint32(b[12:])}, true
}

// ReplyHeader precedes the data of an option reply.
type ReplyHeader struct {
	Option Option
	Type   OptionReply
	Length uint32
}

// AppendOptionReply appends an option reply with its data.
func AppendOptionReply(b []byte, o Option, t OptionReply, data []byte) []byte {
	b = be.AppendUint64(b, MagicOptionReply)
	b = be.AppendUint32(b, uint32(o))
	b = be.AppendUint32(b, uint32(t))
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// ParseReplyHeader reads ReplyHeaderSize bytes.
func ParseReplyHeader(b []byte) (h ReplyHeader, ok bool) {
	if len(b) < ReplyHeaderSize || be.Uint64(b) != MagicOptionReply {
		return h, false
	}
	return ReplyHeader{Option(be.Uint32(b[8:])), OptionReply(be.Uint32(b[12:])), be.Uint32(b[16:])}, true
}

// AppendString appends a string with its 32-bit length.
func AppendString(b []byte, s string) []byte {
	b = be.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// ParseString reads what AppendString wrote and returns what follows.
func ParseString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := be.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

// GoData is the data of OptGo and OptInfo.
type GoData struct {
	Name  string
	Infos []uint16 // asked for
}

// AppendGo appends the data of OptGo or OptInfo.
func AppendGo(b []byte, g GoData) []byte {
	b = AppendString(b, g.Name)
	b = be.AppendUint16(b, uint16(len(g.Infos)))
	for _, i := range g.Infos {
		b = be.AppendUint16(b, i)
	}
	return b
}

// ParseGo reads what AppendGo wrote; trailing bytes make it malformed.
func ParseGo(b []byte) (g GoData, ok bool) {
	g.Name, b, ok = ParseString(b)
	if !ok || len(b) < 2 || len(b) != 2+2*int(be.Uint16(b)) {
		return GoData{}, false
	}
	for b = b[2:]; len(b) > 0; b = b[2:] {
		g.Infos = append(g.Infos, be.Uint16(b))
	}
	return g, true
}

// MetaData is the data of OptListMetaContext and OptSetMetaContext.
type MetaData struct {
	Name    string
	Queries []string
}

// AppendMeta appends the data of a metadata context option.
func AppendMeta(b []byte, m MetaData) []byte {
	b = AppendString(b, m.Name)
	b = be.AppendUint32(b, uint32(len(m.Queries)))
	for _, q := range m.Queries {
		b = AppendString(b, q)
	}
	return b
}

// ParseMeta reads what AppendMeta wrote; trailing bytes make it malformed.
func ParseMeta(b []byte) (m MetaData, ok bool) {
	m.Name, b, ok = ParseString(b)
	if !ok || len(b) < 4 {
		return MetaData{}, false
	}
	n := be.Uint32(b)
	for b = b[4:]; n > 0; n-- {
		var q string
		if q, b, ok = ParseString(b); !ok {
			return MetaData{}, false
		}
		m.Queries = append(m.Queries, q)
	}
	return m, len(b) == 0
}

// Request is the head of a request; a write's data follows it.
type Request struct {
	Flags  uint16
	Type   Command
	Cookie uint64
	Offset uint64
	Length uint32
}

// AppendRequest appends the head of a request.
func AppendRequest(b []byte, r Request) []byte {
	b = be.AppendUint32(b, MagicRequest)
	b = be.AppendUint16(b, r.Flags)
	b = be.AppendUint16(b, uint16(r.Type))
	b = be.AppendUint64(b, r.Cookie)
	b = be.AppendUint64(b, r.Offset)
	return be.AppendUint32(b, r.Length)
}

// ParseRequest reads RequestSize bytes.
func ParseRequest(b []byte) (r Request, ok bool) {
	if len(b) < RequestSize || be.Uint32(b) != MagicRequest {
		return r, false
	}
	return Request{
		Flags: be.Uint16(b[4:]), Type: Command(be.Uint16(b[6:])),
		Cookie: be.Uint64(b[8:]), Offset: be.Uint64(b[16:]), Length: be.Uint32(b[24:]),
	}, true
}

// AppendSimpleReply appends a simple reply; a read's data follows it.
func AppendSimpleReply(b []byte, e Errno, cookie uint64) []byte {
	b = be.AppendUint32(b, MagicSimpleReply)
	b = be.AppendUint32(b, uint32(e))
	return be.AppendUint64(b, cookie)
}

// ChunkHeader precedes the payload of one chunk of a structured reply.
type ChunkHeader struct {
	Flags  uint16
	Type   uint16
	Cookie uint64
	Length uint32
}

// AppendChunkHeader appends the header of a chunk.
func AppendChunkHeader(b []byte, h ChunkHeader) []byte {
	b = be.AppendUint32(b, MagicChunk)
	b = be.AppendUint16(b, h.Flags)
	b = be.AppendUint16(b, h.Type)
	b = be.AppendUint64(b, h.Cookie)
	return be.AppendUint32(b, h.Length)
}

// ParseChunkHeader reads ChunkHeaderSize bytes.
func ParseChunkHeader(b []byte) (h ChunkHeader, ok bool) {
	if len(b) < ChunkHeaderSize || be.Uint32(b) != MagicChunk {
		return h, false
	}
	return ChunkHeader{be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint64(b[8:]), be.Uint32(b[16:])}, true
}

// Descriptor is one entry of a block status chunk.
type Descriptor struct {
	Length uint32
	Flags  uint32
}

// AppendStatus appends the payload of a block status chunk.
func AppendStatus(b []byte, context uint32, ds []Descriptor) []byte {
	b = be.AppendUint32(b, context)
	for _, d := range ds {
		b = be.AppendUint32(b, d.Length)
		b = be.AppendUint32(b, d.Flags)
	}
	return b
}

// ParseStatus reads what AppendStatus wrote.
func ParseStatus(b []byte) (context uint32, ds []Descriptor, ok bool) {
	if len(b) < 4+DescriptorSize || (len(b)-4)%DescriptorSize != 0 {
		return 0, nil, false
	}
	context = be.Uint32(b)
	for b = b[4:]; len(b) > 0; b = b[DescriptorSize:] {
		ds = append(ds, Descriptor{be.Uint32(b), be.Uint32(b[4:])})
	}
	return context, ds, true
}

// AppendError appends the payload of an error chunk.
func AppendError(b []byte, e Errno, message string) []byte {
	if len(message) > MaxString {
		message = message[:MaxString]
	}
	b = be.AppendUint32(b, uint32(e))
	b = be.AppendUint16(b, uint16(len(message)))
	return append(b, message...)
}

// ParseError reads what AppendError wrote; bytes after the message (the offset of
// a ChunkErrorOffset) are left out.
func ParseError(b []byte) (e Errno, message string, ok bool) {
	if len(b) < 6 || len(b)-6 < int(be.Uint16(b[4:])) {
		return 0, "", false
	}
	return Errno(be.Uint32(b)), string(b[6 : 6+be.Uint16(b[4:])]), true
}
