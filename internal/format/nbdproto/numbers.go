// Package nbdproto holds the numbers and the fixed byte layouts of the NBD
// protocol (fixed newstyle with structured replies), shared by the server in
// front/nbd and its client.
//
// It is a pure codec: it neither reads nor writes a connection, and allocates
// only what it returns. It promises that what an Append function wrote, the
// matching Parse function reads back, and that a Parse function never panics and
// never returns a slice outside its input, whatever the bytes. What can go wrong
// is malformed input, which a Parse function reports with ok == false.
//
// The format is the public NBD protocol specification; docs/formats/nbd.md lists
// the part of it that Cairn speaks.
package nbdproto

// The magic numbers, in the order in which a session meets them.
const (
	MagicServer      uint64 = 0x4e42444d41474943 // "NBDMAGIC", first bytes from the server
	MagicOption      uint64 = 0x49484156454f5054 // "IHAVEOPT", second word, and before every option
	MagicOptionReply uint64 = 0x0003e889045565a9
	MagicRequest     uint32 = 0x25609513
	MagicSimpleReply uint32 = 0x67446698
	MagicChunk       uint32 = 0x668e33ef // one chunk of a structured reply
)

// Flags of the handshake; the client's have the same values in 32 bits.
const (
	FlagFixedNewstyle uint16 = 1 << 0
	FlagNoZeroes      uint16 = 1 << 1
)

// Option is what a client asks for before transmission.
type Option uint32

// The options.
const (
	OptExportName      Option = 1
	OptAbort           Option = 2
	OptList            Option = 3
	OptStartTLS        Option = 5
	OptInfo            Option = 6
	OptGo              Option = 7
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
)

// OptionReply is the type of a server's answer to an option.
type OptionReply uint32

// The option replies; those with the top bit set are errors.
const (
	RepAck         OptionReply = 1
	RepServer      OptionReply = 2
	RepInfo        OptionReply = 3
	RepMetaContext OptionReply = 4

	RepErrUnsup    OptionReply = 1<<31 | 1
	RepErrPolicy   OptionReply = 1<<31 | 2
	RepErrInvalid  OptionReply = 1<<31 | 3
	RepErrTLSReqd  OptionReply = 1<<31 | 5
	RepErrUnknown  OptionReply = 1<<31 | 6
	RepErrShutdown OptionReply = 1<<31 | 7
	RepErrTooBig   OptionReply = 1<<31 | 9
)

// IsError reports whether r is one of the error replies.
func (r OptionReply) IsError() bool { return r&(1<<31) != 0 }

// The information types inside a RepInfo.
const (
	InfoExport      uint16 = 0
	InfoName        uint16 = 1
	InfoDescription uint16 = 2
	InfoBlockSize   uint16 = 3
)

// Flags of an export, sent when transmission begins.
const (
	ExportHasFlags    uint16 = 1 << 0
	ExportReadOnly    uint16 = 1 << 1
	ExportFlush       uint16 = 1 << 2
	ExportFUA         uint16 = 1 << 3
	ExportTrim        uint16 = 1 << 5
	ExportWriteZeroes uint16 = 1 << 6
	ExportDF          uint16 = 1 << 7
	ExportMultiConn   uint16 = 1 << 8
	ExportCache       uint16 = 1 << 10
	ExportFastZero    uint16 = 1 << 11
)

// Command is the type of a request.
type Command uint16

// The commands.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisc        Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

var commandNames = [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write zeroes", "block status"}

// String is the command's word in messages.
func (c Command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	return "unknown command"
}

// Flags of a command.
const (
	CmdFlagFUA      uint16 = 1 << 0
	CmdFlagNoHole   uint16 = 1 << 1
	CmdFlagDF       uint16 = 1 << 2
	CmdFlagReqOne   uint16 = 1 << 3
	CmdFlagFastZero uint16 = 1 << 4
)

// The types of a chunk; those with the top bit set are errors.
const (
	ChunkNone        uint16 = 0
	ChunkOffsetData  uint16 = 1
	ChunkOffsetHole  uint16 = 2
	ChunkBlockStatus uint16 = 5
	ChunkError       uint16 = 1<<15 | 1
	ChunkErrorOffset uint16 = 1<<15 | 2

	ChunkFlagDone uint16 = 1 << 0
)

// Errno is an error number of the protocol, which has its own list.
type Errno uint32

// The error numbers.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// The metadata contexts and the flags of their descriptors.
const (
	ContextAllocation  = "base:allocation"
	ContextDirtyPrefix = "qemu:dirty-bitmap:"

	StatusHole  uint32 = 1 << 0 // base:allocation
	StatusZero  uint32 = 1 << 1 // base:allocation
	StatusDirty uint32 = 1 << 0 // qemu:dirty-bitmap
)

// Limits of the protocol and sizes of its fixed parts, in bytes.
const (
	MaxString         = 4096
	OptionHeaderSize  = 16
	ReplyHeaderSize   = 20 // of an option reply
	RequestSize       = 28
	SimpleReplySize   = 16
	ChunkHeaderSize   = 20
	DescriptorSize    = 8
	ExportNamePadding = 124 // zeroes after an EXPORT_NAME reply, unless NO_ZEROES
)
