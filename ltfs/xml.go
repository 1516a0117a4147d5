package ltfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Limits of the XML reader. A legal index stays far below them.
const (
	maxDepth      = 1024    // nested elements
	maxTokenBytes = 4 << 20 // one tag, one text, one unknown element
)

type tokenKind uint8

const (
	tokenStart tokenKind = iota
	tokenEnd
	tokenEOF
)

// scanner is a pull reader for the subset of XML that labels and indexes are
// written in: UTF-8, no document type, the five predefined entities and character
// references. Slices it hands out are valid until the next call.
type scanner struct {
	what string
	r    io.Reader
	buf  []byte
	pos  int   // first byte not consumed
	end  int   // end of what was read
	base int64 // document offset of buf[0]
	eof  bool

	depth   int
	open    []byte // names of the open elements, end to end
	lengths []int  // of each name in open
	pending bool   // a self-closing tag still owes its end

	name      []byte // of the tag
	attrs     []byte // of a start tag, raw
	selfClose bool
	text      []byte // between the previous tag and this one, raw unless decoded
	decoded   bool   // text holds no entity any more
	scratch   []byte
	keep      []byte // copy of the raw bytes consumed since keeping began
	keeping   bool
}

func newScanner(what string, r io.Reader) *scanner {
	return &scanner{what: what, r: r, buf: make([]byte, 64<<10)}
}

func (s *scanner) fail(format string, args ...any) error {
	return &FormatError{What: s.what, Offset: s.base + int64(s.pos), Reason: fmt.Sprintf(format, args...)}
}

// more reads on, keeping what lies between pos and end. It reports io.EOF when the
// document is over.
func (s *scanner) more() error {
	if s.eof {
		return io.EOF
	}
	if s.pos > 0 {
		copy(s.buf, s.buf[s.pos:s.end])
		s.base += int64(s.pos)
		s.end -= s.pos
		s.pos = 0
	}
	if s.end == len(s.buf) {
		if len(s.buf) >= maxTokenBytes {
			return s.fail("a tag or text is longer than %d bytes", maxTokenBytes)
		}
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	n, err := s.r.Read(s.buf[s.end:])
	s.end += n
	switch {
	case errors.Is(err, io.EOF):
		s.eof = true
		if n == 0 {
			return io.EOF
		}
	case err != nil:
		return fmt.Errorf("LTFS %s: %w", s.what, err)
	case n == 0:
		return fmt.Errorf("LTFS %s: %w", s.what, io.ErrNoProgress)
	}
	return nil
}

// find returns the distance from pos of the first occurrence of mark at or after
// pos+from, reading on as needed.
func (s *scanner) find(mark string, from int) (int, error) {
	for {
		if i := bytes.Index(s.buf[min(s.pos+from, s.end):s.end], []byte(mark)); i >= 0 {
			return from + i, nil
		}
		from = max(from, s.end-s.pos-len(mark)+1)
		if err := s.more(); err != nil {
			return 0, err
		}
	}
}

// need makes at least n bytes available from pos.
func (s *scanner) need(n int) error {
	for s.end-s.pos < n {
		if err := s.more(); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) consume(n int) {
	if s.keeping {
		s.keep = append(s.keep, s.buf[s.pos:s.pos+n]...)
	}
	s.pos += n
}

// next advances to the next tag and collects the text before it.
func (s *scanner) next() (tokenKind, error) {
	if s.pending {
		s.pending = false
		s.pop()
		s.text, s.decoded = nil, true
		return tokenEnd, nil
	}
	s.scratch, s.text, s.decoded = s.scratch[:0], nil, false
	textLen := 0 // bytes from pos that are text of the current stretch
	for {
		open, err := s.find("<", textLen)
		if errors.Is(err, io.EOF) {
			return s.atEOF()
		}
		if err != nil {
			return 0, err
		}
		if err := s.need(open + 2); err != nil {
			return 0, s.fail("ends inside a tag")
		}
		switch s.buf[s.pos+open+1] {
		case '?', '!':
			if err := s.skipMarkup(open); err != nil {
				return 0, err
			}
			textLen = 0
		default:
			return s.tag(open)
		}
	}
}

func (s *scanner) atEOF() (tokenKind, error) {
	rest := s.buf[s.pos:s.end]
	if s.depth > 0 {
		return 0, s.fail("ends with %d elements open", s.depth)
	}
	if s.name == nil {
		return 0, s.fail("is not XML")
	}
	if len(bytes.Trim(rest, "\x00 \t\r\n")) > 0 {
		return 0, s.fail("has text after its last element")
	}
	return tokenEOF, nil
}

// skipMarkup passes over a processing instruction, comment or CDATA section that
// begins open bytes from pos, moving the text before it to scratch.
func (s *scanner) skipMarkup(open int) error {
	if err := s.need(open + 9); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	head := s.buf[s.pos+open : min(s.pos+open+9, s.end)]
	mark, skip := "", 0
	switch {
	case head[1] == '?':
		mark, skip = "?>", 2
	case bytes.HasPrefix(head, []byte("<!--")):
		mark, skip = "-->", 4
	case bytes.HasPrefix(head, []byte("<![CDATA[")):
		mark, skip = "]]>", 9
	default:
		return s.fail("has a document type or declaration, which the format does not use")
	}
	end, err := s.find(mark, open+skip)
	if err != nil {
		return s.fail("ends inside %s", head[:skip])
	}
	section := s.buf[s.pos : s.pos+end]
	if head[1] == '?' {
		if err := s.checkDeclaration(section[open:]); err != nil {
			return err
		}
	}
	var ok bool
	if s.scratch, ok = appendDecoded(s.scratch, section[:open]); !ok {
		return s.fail("has an entity other than those of XML, or a character XML does not allow")
	}
	if skip == 9 {
		s.scratch = append(s.scratch, section[open+9:]...)
	}
	if len(s.scratch) > maxTokenBytes {
		return s.fail("a text is longer than %d bytes", maxTokenBytes)
	}
	s.decoded = true
	s.consume(end + len(mark))
	return nil
}

func (s *scanner) checkDeclaration(pi []byte) error {
	if !bytes.HasPrefix(pi, []byte("<?xml ")) {
		return nil
	}
	if enc, ok := attribute(pi[6:], "encoding"); ok && !bytes.EqualFold(enc, []byte("UTF-8")) {
		return s.fail("has encoding %.20q; the format asks for UTF-8", enc)
	}
	return nil
}

// tag reads the tag that begins open bytes from pos.
func (s *scanner) tag(open int) (tokenKind, error) {
	end, err := s.tagEnd(open + 1)
	if err != nil {
		return 0, err
	}
	if s.decoded {
		var ok bool
		if s.scratch, ok = appendDecoded(s.scratch, s.buf[s.pos:s.pos+open]); !ok {
			return 0, s.fail("has an entity other than those of XML, or a character XML does not allow")
		}
		s.text = s.scratch
	} else {
		s.text = s.buf[s.pos : s.pos+open]
	}
	body := s.buf[s.pos+open+1 : s.pos+end]
	closing := len(body) > 0 && body[0] == '/'
	if closing {
		body = body[1:]
	}
	s.selfClose = !closing && len(body) > 0 && body[len(body)-1] == '/'
	if s.selfClose {
		body = body[:len(body)-1]
	}
	cut := bytes.IndexAny(body, " \t\r\n")
	if cut < 0 {
		cut = len(body)
	}
	s.name, s.attrs = body[:cut], body[cut:]
	if len(s.name) == 0 || !utf8.Valid(s.name) {
		return 0, s.fail("has a tag without a name")
	}
	s.consume(end + 1)
	if closing {
		if s.depth == 0 || !bytes.HasSuffix(s.open, s.name) || s.lengths[s.depth-1] != len(s.name) {
			return 0, s.fail("closes <%.40s>, which is not the element that is open", s.name)
		}
		s.pop()
		return tokenEnd, nil
	}
	if s.depth == maxDepth {
		return 0, s.fail("is nested more than %d deep", maxDepth)
	}
	s.depth++
	s.open, s.lengths = append(s.open, s.name...), append(s.lengths, len(s.name))
	s.pending = s.selfClose
	return tokenStart, nil
}

func (s *scanner) pop() {
	s.depth--
	s.open = s.open[:len(s.open)-s.lengths[s.depth]]
	s.lengths = s.lengths[:s.depth]
}

// tagEnd finds the '>' of a tag; one inside quotes does not count.
func (s *scanner) tagEnd(from int) (int, error) {
	end, err := s.find(">", from)
	if err == nil && bytes.IndexByte(s.buf[s.pos+from:s.pos+end], '"') < 0 && bytes.IndexByte(s.buf[s.pos+from:s.pos+end], '\'') < 0 {
		return end, nil
	}
	var quote byte
	for i := from; ; i++ {
		if err := s.need(i + 1); errors.Is(err, io.EOF) {
			return 0, s.fail("ends inside a tag")
		} else if err != nil {
			return 0, err
		}
		c := s.buf[s.pos+i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			return i, nil
		}
	}
}

// string returns the text before the current tag, decoded.
func (s *scanner) string() (string, error) {
	text := s.text
	if !s.decoded {
		if plainText(text) {
			return string(text), nil
		}
		var ok bool
		if s.scratch, ok = appendDecoded(s.scratch[:0], text); !ok {
			return "", s.fail("has an entity other than those of XML, or a character XML does not allow")
		}
		text = s.scratch
	}
	return string(text), nil
}

// blank reports whether there is nothing but white space before the current tag.
func (s *scanner) blank() bool {
	for _, c := range s.text {
		if c != '\n' && c != ' ' && c != '\t' && c != '\r' {
			return false
		}
	}
	return true
}

// plainText reports whether text is printable ASCII without entities: by far most
// names are.
func plainText(text []byte) bool {
	for _, c := range text {
		if c < 0x20 || c >= 0x7F || c == '&' {
			return false
		}
	}
	return true
}

// appendDecoded appends text with entities resolved and line ends normalised as
// XML asks. It fails on unknown entities, invalid UTF-8 and illegal characters.
func appendDecoded(b, text []byte) ([]byte, bool) {
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '&':
			r, n := entity(text[i:])
			if n == 0 || !xmlLegal(r) {
				return b, false
			}
			b = utf8.AppendRune(b, r)
			i += n
		case c == '\r':
			b = append(b, '\n')
			i++
			if i < len(text) && text[i] == '\n' {
				i++
			}
		case c < 0x80:
			if c < 0x20 && c != '\t' && c != '\n' {
				return b, false
			}
			b = append(b, c)
			i++
		default:
			r, n := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && n == 1 || !xmlLegal(r) {
				return b, false
			}
			b = append(b, text[i:i+n]...)
			i += n
		}
	}
	return b, true
}

// entity decodes the reference at the start of text and its length, 0 when it is
// none that XML predefines.
func entity(text []byte) (rune, int) {
	end := bytes.IndexByte(text[:min(len(text), 12)], ';')
	if end < 2 {
		return 0, 0
	}
	switch name := text[1:end]; string(name) {
	case "lt":
		return '<', end + 1
	case "gt":
		return '>', end + 1
	case "amp":
		return '&', end + 1
	case "quot":
		return '"', end + 1
	case "apos":
		return '\'', end + 1
	default:
		if name[0] != '#' {
			return 0, 0
		}
		return charRef(name[1:]), end + 1
	}
}

// charRef decodes the digits of a character reference; -1 is no character.
func charRef(digits []byte) rune {
	radix := rune(10)
	if len(digits) > 0 && digits[0] == 'x' {
		radix, digits = 16, digits[1:]
	}
	if len(digits) == 0 {
		return -1
	}
	var r rune
	for _, c := range digits {
		v := unhex(c)
		if v < 0 || rune(v) >= radix || r > utf8.MaxRune {
			return -1
		}
		r = r*radix + rune(v)
	}
	return r
}

// attribute finds an attribute's raw value in the text of a tag.
func attribute(attrs []byte, name string) ([]byte, bool) {
	for {
		attrs = bytes.TrimLeft(attrs, " \t\r\n")
		eq := bytes.IndexByte(attrs, '=')
		if eq < 0 {
			return nil, false
		}
		key := bytes.TrimRight(attrs[:eq], " \t\r\n")
		rest := bytes.TrimLeft(attrs[eq+1:], " \t\r\n")
		if len(rest) == 0 || rest[0] != '"' && rest[0] != '\'' {
			return nil, false
		}
		end := bytes.IndexByte(rest[1:], rest[0])
		if end < 0 {
			return nil, false
		}
		if string(key) == name {
			return rest[1 : 1+end], true
		}
		attrs = rest[end+2:]
	}
}

// skip passes over the element whose start tag was just read, and over all in it.
func (s *scanner) skip() error {
	target := s.depth - 1
	for s.depth > target {
		kind, err := s.next()
		if err != nil {
			return err
		}
		if kind == tokenEOF {
			return s.fail("ends inside an element")
		}
		if len(s.keep) > maxTokenBytes {
			return s.fail("an unknown element is longer than %d bytes", maxTokenBytes)
		}
	}
	return nil
}
