// Package zfsstream reads, checks and writes the stream of `zfs send`:
// cairn.FormatZFS. It is a pure codec over io.Reader and io.Writer; no zfs
// program, kernel module or privilege is needed.
//
//   - [NewReader] hands out the records of a stream: full, incremental, resumed,
//     compressed, raw, with embedded data, and compound streams (zfs send -R, -I,
//     -p), of either byte order. [Unpacker] unpacks what was written.
//   - [Check] verifies a stream while somebody else reads it, and counts what
//     passes. [Peek] looks at the first header and gives the stream back whole.
//   - [NewVolumeReader] reads the content of a zvol: extents of data and zeroes.
//     [NewWriter] makes such a stream of a volume's content, one that `zfs receive`
//     takes.
//   - [ParseToken] and [Token.String] read and write resume tokens.
//
// # What it promises
//
//   - [Reader.Next] answers io.EOF only when every record's checksum was right,
//     each substream ended with its END record, whose checksum over everything
//     since its BEGIN was right too, and the input ended right there.
//   - No payload is larger than [MaxPayload], and memory is reserved as bytes
//     arrive, not as lengths promise: a hostile stream costs no more than an
//     honest one.
//   - What a [Writer] made, OpenZFS receives as a snapshot with the GUID, base and
//     content that the Writer was given.
//
// # What can go wrong
//
// A stream that was cut or changed fails with KindCorrupt; a cut one also satisfies
// errors.Is(err, io.ErrUnexpectedEOF). Deduplicated streams (zfs send -D) and
// features that are not known here fail with KindUnsupported and name what it is;
// [Check] lets those pass and says in its [Summary] that it could not look inside.
// The checksum of the format, Fletcher-4, finds accidents; it is no protection
// against a person who changes a stream on purpose: that is the transport's work.
//
// The layout is written down in docs/formats/zfsstream.md; streams that real
// OpenZFS made lie in testdata.
package zfsstream
