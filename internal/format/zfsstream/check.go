package zfsstream

import (
	"errors"
	"io"

	"cairn"
)

// Summary is what passed through a check.
type Summary struct {
	Bytes      int64
	Records    [Types]int64 // by Type
	Payload    int64        // bytes of payloads
	Logical    int64        // bytes of blocks before compression
	Substreams int          // headers other than a compound one
	Features   Features     // of all headers together
	First      Header       // without its Details when the stream is a compound one
	Last       Header       // that of the last substream
	Unread     string       // why the stream could not be read; empty when all of it was verified
}

// CheckOptions are the choices of a check.
type CheckOptions struct {
	// OnHeader is called with each header, before any of the bytes behind it are
	// handed out; an error ends the stream. May be nil.
	OnHeader func(Header) error

	// LeaveSums leaves the checksums to a reader that verifies them itself, as zfs
	// receive does of every record before it applies it: that is most of the cost.
	// The order and kinds of records, their GUIDs, lengths and end are looked at
	// all the same.
	LeaveSums bool
}

// Checker verifies a stream while somebody else reads it. It is used by one
// goroutine.
type Checker struct {
	r       io.Reader
	o       CheckOptions
	state   state
	sum     Summary
	head    [RecordBytes]byte
	have    int    // bytes of head
	left    uint64 // bytes of the payload still to come
	details []byte // the payload of a header, while it comes
	word    [4]byte
	part    int // bytes of word: a payload may come in pieces of any length
	err     error
}

// Check passes r on and verifies it. Read fails with KindCorrupt instead of handing
// out the piece in which a checksum is wrong, and instead of io.EOF when the stream
// is not whole. A stream with features that are not known here passes unverified;
// the summary says so.
func Check(r io.Reader, o CheckOptions) *Checker {
	return &Checker{r: r, o: o, state: state{unsummed: o.LeaveSums}}
}

// Summary is what passed so far; all of it once Read has answered io.EOF.
func (c *Checker) Summary() Summary { return c.sum }

// Read reads and verifies what it read.
func (c *Checker) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(p)
	if bad := c.feed(p[:n]); bad != nil {
		c.err = readError(bad, c.state.records)
		return 0, c.err
	}
	if err != nil {
		c.err = c.atEnd(err)
	}
	return n, c.err
}

// atEnd is what the end of the input means.
func (c *Checker) atEnd(err error) error {
	if !errors.Is(err, io.EOF) || c.sum.Unread != "" || c.state.ended && c.have == 0 {
		return err
	}
	return readError(cut(err), c.state.records)
}

func (c *Checker) feed(p []byte) error {
	c.sum.Bytes += int64(len(p))
	for len(p) > 0 && c.sum.Unread == "" {
		if c.left > 0 {
			n := int(min(uint64(len(p)), c.left))
			c.payload(p[:n])
			p = p[n:]
			if c.left == 0 && c.details != nil {
				if err := c.header(); err != nil {
					return err
				}
			}
			continue
		}
		n := copy(c.head[c.have:], p)
		c.have += n
		p = p[n:]
		if c.have == RecordBytes {
			c.have = 0
			if err := c.record(); err != nil {
				return err
			}
		}
	}
	return nil
}

// payload adds a piece to the sum in whole words.
func (c *Checker) payload(p []byte) {
	c.left -= uint64(len(p))
	if c.details != nil {
		c.details = append(c.details, p...)
	}
	if c.part > 0 {
		n := copy(c.word[c.part:], p)
		c.part += n
		p = p[n:]
		if c.part < len(c.word) {
			return
		}
		c.state.payload(c.word[:])
		c.part = 0
	}
	whole := len(p) &^ 3
	c.state.payload(p[:whole])
	c.part = copy(c.word[:], p[whole:])
}

func (c *Checker) record() error {
	rec, length, err := c.state.record(c.head[:])
	if err != nil {
		return err
	}
	c.left = length
	c.sum.Records[rec.Type]++
	c.sum.Payload += int64(length)
	switch rec.Type {
	case TypeWrite, TypeEmbedded, TypeSpill:
		c.sum.Logical += int64(rec.Length)
	case TypeBegin:
		if length > 0 {
			c.details = []byte{}
			return nil
		}
		return c.header()
	}
	return nil
}

// header counts a header that has come with its payload and tells it.
func (c *Checker) header() error {
	h := c.state.header
	if c.details != nil {
		var err error
		if h.Details, err = parseList(c.details); err != nil {
			return err
		}
		c.details = nil
	}
	if !h.Compound {
		c.sum.Substreams++
		c.sum.Last = h
	}
	if c.o.OnHeader != nil {
		if err := c.o.OnHeader(h); err != nil {
			return err
		}
	}
	if c.sum.Features |= h.Features; c.state.records == 1 {
		if c.sum.First = h; h.Compound {
			c.sum.First.Details = nil
		}
	}
	if f := h.Features.unreadable(); f != 0 {
		c.sum.Unread = unreadable(f).Error()
	} else if h.Features&FeatureDedup != 0 {
		c.sum.Unread = cairn.KindUnsupported.String() + ": it is deduplicated (zfs send -D)"
	}
	return nil
}
