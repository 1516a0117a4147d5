// Package blocks reads and writes the stream of one version of a block volume,
// full or incremental: cairn.FormatBlocks. It is a pure codec over io.Writer and
// io.Reader: it never seeks, starts no goroutine and holds about one MiB (a writer with zstd two more), so
// that a stream passes through pipes, ssh, files and any other tool.
//
// # What it promises
//
//   - What a [Reader] hands out is what a [Writer] was given, in the same order:
//     every record carries a checksum over its content, its place in the stream
//     and the GUIDs of both versions, so that no record can be changed, moved,
//     left out, repeated or taken from another stream unnoticed.
//   - [Reader.Next] answers io.EOF only when the end record was there, its counts
//     and its hash over everything since the very beginning were right, and the
//     input ended right behind it. Only then may a receiver commit.
//   - A receiver that stores [Reader.Token] when it meets a record of [KindPoint],
//     after making what came before it durable, can ask for the rest: the sender
//     gives the token to [NewWriter] and goes on from [Writer.Position]. At most
//     4 MiB of data lie between two points. The final hash of the continued stream
//     still covers the whole: each point closes a section of the hash, and the
//     next section begins with the digest of the one before.
//   - Lengths are believed only within fixed bounds: a hostile stream costs no
//     more memory than an honest one.
//
// # What can go wrong
//
// A stream that was cut, changed, or is not one of ours fails with KindCorrupt; a
// cut one also satisfies errors.Is(err, io.ErrUnexpectedEOF). A newer layout fails
// with KindUnsupported. A token of other versions, or a stream that goes on from
// another point than the reader's token, fails with KindConflict. Errors of the
// input and output keep their kind, or are KindIO.
//
// The layout is written down in docs/formats/blocks.md; a golden file in testdata
// holds it fast.
package blocks
