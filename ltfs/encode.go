package ltfs

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// encoder appends a document to a buffer that is written out as it fills.
type encoder struct {
	w *bufio.Writer
	b []byte // scratch of one element
	n int64
	e error
}

// WriteTo writes the index in format 2.4.0 (Index.Version is not used), a newline
// after each element and no indentation, as other LTFS software does. It returns
// the bytes written.
func (ix *Index) WriteTo(w io.Writer) (int64, error) {
	e := newEncoder(w)
	e.raw(xmlDeclaration + `<ltfsindex version="` + Version + `">` + "\n")
	e.head(ix)
	if ix.Policy != nil {
		e.policy(ix.Policy)
	}
	e.number("highestfileuid", ix.HighestUID)
	e.text("volumelockstate", ix.Lock.String())
	e.directory(ix.Root)
	e.bytes(ix.Unknown)
	e.raw("</ltfsindex>\n")
	return e.finish()
}

const xmlDeclaration = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

func newEncoder(w io.Writer) *encoder {
	return &encoder{w: bufio.NewWriterSize(w, 256<<10)}
}

func (e *encoder) finish() (int64, error) {
	if e.e == nil {
		e.e = e.w.Flush()
	}
	return e.n, e.e
}

func (e *encoder) head(ix *Index) {
	e.text("creator", ix.Creator)
	if ix.Comment != "" {
		e.text("comment", ix.Comment)
	}
	e.text("volumeuuid", ix.VolumeUUID)
	e.number("generationnumber", ix.Generation)
	e.time("updatetime", ix.UpdateTime)
	e.location("location", ix.Self)
	if !ix.Previous.IsZero() {
		e.location("previousgenerationlocation", ix.Previous)
	}
	e.boolean("allowpolicyupdate", ix.AllowPolicyUpdate)
}

func (e *encoder) policy(p *Policy) {
	e.raw("<dataplacementpolicy>\n<indexpartitioncriteria>\n")
	e.number("size", p.MaxSize)
	for _, glob := range p.Names {
		e.name("name", glob)
	}
	e.raw("</indexpartitioncriteria>\n</dataplacementpolicy>\n")
}

func (e *encoder) directory(d *Directory) {
	e.raw("<directory>\n")
	e.name("name", d.Name)
	e.boolean("readonly", d.ReadOnly)
	e.times(&d.Times)
	e.number("fileuid", d.UID)
	e.xattrs(d.XAttrs)
	e.raw("<contents>\n")
	for _, sub := range d.Dirs {
		e.directory(sub)
	}
	for _, f := range d.Files {
		e.file(f)
	}
	e.raw("</contents>\n")
	e.bytes(d.Unknown)
	e.raw("</directory>\n")
}

func (e *encoder) file(f *File) {
	e.raw("<file>\n")
	e.name("name", f.Name)
	e.number("length", f.Length)
	e.boolean("readonly", f.ReadOnly)
	if f.OpenForWrite {
		e.boolean("openforwrite", true)
	}
	e.times(&f.Times)
	e.number("fileuid", f.UID)
	e.xattrs(f.XAttrs)
	if f.IsSymlink {
		e.name("symlink", f.Symlink)
	}
	if len(f.Extents) > 0 {
		e.raw("<extentinfo>\n")
		for i := range f.Extents {
			e.extent(&f.Extents[i])
		}
		e.raw("</extentinfo>\n")
	}
	e.bytes(f.Unknown)
	e.raw("</file>\n")
}

func (e *encoder) extent(x *Extent) {
	e.raw("<extent>\n")
	e.number("fileoffset", x.FileOffset)
	e.raw("<partition>")
	e.raw(string(x.Partition))
	e.raw("</partition>\n")
	e.number("startblock", x.StartBlock)
	e.number("byteoffset", uint64(x.ByteOffset))
	e.number("bytecount", x.ByteCount)
	e.raw("</extent>\n")
}

func (e *encoder) xattrs(list []XAttr) {
	if len(list) == 0 {
		return
	}
	e.raw("<extendedattributes>\n")
	for _, x := range list {
		e.raw("<xattr>\n")
		e.name("key", x.Key)
		if plainValue(x.Value) {
			e.text("value", string(x.Value))
		} else {
			e.raw(`<value type="base64">`)
			e.raw(base64.StdEncoding.EncodeToString(x.Value))
			e.raw("</value>\n")
		}
		e.raw("</xattr>\n")
	}
	e.raw("</extendedattributes>\n")
}

// plainValue reports whether a value survives as XML text. A carriage return
// would, as a reference, but not in every reader.
func plainValue(v []byte) bool {
	return plainText(v) || bytes.IndexByte(v, '\r') < 0 && legalText(string(v))
}

func legalText(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !xmlLegal(r) }) < 0
}

func (e *encoder) times(t *Times) {
	e.time("creationtime", t.Creation)
	e.time("changetime", t.Change)
	e.time("modifytime", t.Modify)
	e.time("accesstime", t.Access)
	e.time("backuptime", t.Backup)
}

func (e *encoder) location(tag string, l Location) {
	e.raw("<" + tag + ">\n<partition>" + string(l.Partition) + "</partition>\n")
	e.number("startblock", l.Block)
	e.raw("</" + tag + ">\n")
}

func (e *encoder) open(tag string) {
	e.b = append(append(append(e.b[:0], '<'), tag...), '>')
}

func (e *encoder) close(tag string) {
	e.b = append(append(append(e.b, "</"...), tag...), '>', '\n')
	e.bytes(e.b)
}

func (e *encoder) number(tag string, v uint64) {
	e.open(tag)
	e.b = strconv.AppendUint(e.b, v, 10)
	e.close(tag)
}

func (e *encoder) boolean(tag string, v bool) {
	e.open(tag)
	e.b = strconv.AppendBool(e.b, v)
	e.close(tag)
}

func (e *encoder) time(tag string, t Timestamp) {
	e.open(tag)
	e.b = t.append(e.b)
	e.close(tag)
}

func (e *encoder) text(tag, s string) {
	if !plainText([]byte(s)) && !legalText(s) && e.e == nil {
		e.e = formatError("index", "<%s> holds a character that XML cannot: %.60q", tag, s)
	}
	e.open(tag)
	e.b = appendEscaped(e.b, s)
	e.close(tag)
}

// name writes a "nametype", percent-encoded where it must be.
func (e *encoder) name(tag, s string) {
	if !needsPercent(s) {
		e.text(tag, s)
		return
	}
	e.b = append(append(append(e.b[:0], '<'), tag...), ` percentencoded="true">`...)
	e.b = appendPercent(e.b, s)
	// Percent-encoding leaves '&', '<' and '>' as they are.
	e.b = escapeFrom(e.b, len(tag)+len(`< percentencoded="true">`))
	e.close(tag)
}

// escapeFrom escapes b from an offset on, if anything there needs it.
func escapeFrom(b []byte, from int) []byte {
	return appendEscaped(b[:from:from], string(b[from:]))
}

func appendEscaped(b []byte, s string) []byte {
	done := 0
	for i := range len(s) {
		var ref string
		switch s[i] {
		case '&':
			ref = "&amp;"
		case '<':
			ref = "&lt;"
		case '>':
			ref = "&gt;"
		case '\r':
			ref = "&#13;"
		default:
			continue
		}
		b = append(append(b, s[done:i]...), ref...)
		done = i + 1
	}
	return append(b, s[done:]...)
}

func (e *encoder) raw(s string) {
	if e.e == nil {
		var n int
		n, e.e = e.w.WriteString(s)
		e.n += int64(n)
	}
}

func (e *encoder) bytes(b []byte) {
	if e.e == nil {
		var n int
		n, e.e = e.w.Write(b)
		e.n += int64(n)
	}
}
