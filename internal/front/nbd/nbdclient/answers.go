package nbdclient

import (
	"io"

	"cairn/internal/format/nbdproto"
)

// maxChunk is the longest chunk that is believed, in bytes.
const maxChunk = 64 << 20

// either reads a simple reply or a chunk.
func (c *Client) either() error {
	magic, err := c.r.Peek(4)
	if err != nil {
		return err
	}
	if be.Uint32(magic) == nbdproto.MagicChunk {
		return c.chunk()
	}
	return c.simple()
}

// find returns the call of a cookie, and forgets it when its last answer is here.
func (c *Client) find(cookie uint64, last bool) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[cookie]
	if k == nil {
		return nil, errMalformed
	}
	if last {
		delete(c.calls, cookie)
	}
	return k, nil
}

func (c *Client) simple() error {
	var head [nbdproto.SimpleReplySize]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return err
	}
	if be.Uint32(head[:]) != nbdproto.MagicSimpleReply {
		return errMalformed
	}
	k, err := c.find(be.Uint64(head[8:]), true)
	if err != nil {
		return err
	}
	defer close(k.done)
	if number := nbdproto.Errno(be.Uint32(head[4:])); number != 0 {
		k.err = &Answer{Errno: number}
		return nil
	}
	_, k.err = io.ReadFull(c.r, k.into)
	return k.err
}

func (c *Client) chunk() error {
	var head [nbdproto.ChunkHeaderSize]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return err
	}
	h, ok := nbdproto.ParseChunkHeader(head[:])
	if !ok || h.Length > maxChunk {
		return errMalformed
	}
	last := h.Flags&nbdproto.ChunkFlagDone != 0
	k, err := c.find(h.Cookie, last)
	if err != nil {
		return err
	}
	err = c.payload(k, h)
	if err != nil {
		k.err = err
	}
	if last {
		close(k.done)
	}
	return err
}

// payload takes one chunk's payload into the call.
func (c *Client) payload(k *call, h nbdproto.ChunkHeader) error {
	if h.Type == nbdproto.ChunkOffsetData {
		return c.data(k, h.Length)
	}
	p := make([]byte, h.Length)
	if _, err := io.ReadFull(c.r, p); err != nil {
		return err
	}
	switch h.Type {
	case nbdproto.ChunkNone:
		return nil
	case nbdproto.ChunkOffsetHole:
		if len(p) != 12 {
			return errMalformed
		}
		part, err := k.part(be.Uint64(p), uint64(be.Uint32(p[8:])))
		clear(part)
		return err
	case nbdproto.ChunkBlockStatus:
		id, ds, ok := nbdproto.ParseStatus(p)
		if !ok || c.contexts[id] == "" {
			return errMalformed
		}
		if k.status == nil {
			k.status = map[string][]nbdproto.Descriptor{}
		}
		k.status[c.contexts[id]] = ds
		return nil
	case nbdproto.ChunkError, nbdproto.ChunkErrorOffset:
		number, text, ok := nbdproto.ParseError(p)
		if !ok {
			return errMalformed
		}
		k.err = &Answer{Errno: number, Text: text}
		return nil
	}
	return errMalformed
}

func (c *Client) data(k *call, length uint32) error {
	var at [8]byte
	if length < 8 {
		return errMalformed
	}
	if _, err := io.ReadFull(c.r, at[:]); err != nil {
		return err
	}
	part, err := k.part(be.Uint64(at[:]), uint64(length-8))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(c.r, part)
	return err
}

// part is the piece of a read's buffer that a chunk fills.
func (k *call) part(off, length uint64) ([]byte, error) {
	from := off - uint64(k.offset)
	if off < uint64(k.offset) || from > uint64(len(k.into)) || length > uint64(len(k.into))-from {
		return nil, errMalformed
	}
	return k.into[from : from+length], nil
}
