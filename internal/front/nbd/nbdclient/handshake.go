package nbdclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"cairn/internal/format/nbdproto"
)

// handshakeTimeout bounds the time from connecting to the first request.
const handshakeTimeout = 30 * time.Second

// optionError is a server's refusal of an option.
type optionError struct {
	reply nbdproto.OptionReply
	text  string
}

func (e *optionError) Error() string {
	return fmt.Sprintf("the server refused (%#x) %s", uint32(e.reply), e.text)
}

// handshake is a connection in the negotiation phase.
type handshake struct {
	net.Conn
	r    *bufio.Reader
	stop func() bool // ends the watch over the caller's context
}

// begin connects, exchanges greetings and starts TLS if asked.
func begin(ctx context.Context, o Options) (*handshake, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, o.Network, o.Address)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	h := &handshake{Conn: conn, r: bufio.NewReaderSize(conn, 256<<10)}
	h.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = h.greet()
	if err == nil && o.TLS != nil {
		err = h.startTLS(ctx, o.TLS)
	}
	if err != nil {
		h.stop()
		_ = h.Close()
		return nil, err
	}
	return h, nil
}

func (h *handshake) startTLS(ctx context.Context, config *tls.Config) error {
	if err := h.ask(nbdproto.OptStartTLS, nil, nil); err != nil {
		return err
	}
	t := tls.Client(h.Conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	h.Conn = t
	h.r.Reset(t)
	return nil
}

func (h *handshake) greet() error {
	var hello [18]byte
	if _, err := io.ReadFull(h.r, hello[:]); err != nil {
		return err
	}
	flags := be.Uint16(hello[16:])
	if be.Uint64(hello[:]) != nbdproto.MagicServer || be.Uint64(hello[8:]) != nbdproto.MagicOption || flags&nbdproto.FlagFixedNewstyle == 0 {
		return errMalformed
	}
	_, err := h.Write(be.AppendUint32(nil, uint32(flags&(nbdproto.FlagFixedNewstyle|nbdproto.FlagNoZeroes))))
	return err
}

// ask sends an option and reads its replies until the last; each gets those
// before it, and may be nil when there are none.
func (h *handshake) ask(o nbdproto.Option, data []byte, each func(nbdproto.OptionReply, []byte) error) error {
	if _, err := h.Write(nbdproto.AppendOption(nil, o, data)); err != nil {
		return err
	}
	for {
		var head [nbdproto.ReplyHeaderSize]byte
		if _, err := io.ReadFull(h.r, head[:]); err != nil {
			return err
		}
		r, ok := nbdproto.ParseReplyHeader(head[:])
		if !ok || r.Option != o || r.Length > maxChunk {
			return errMalformed
		}
		payload := make([]byte, r.Length)
		if _, err := io.ReadFull(h.r, payload); err != nil {
			return err
		}
		switch {
		case r.Type == nbdproto.RepAck:
			return nil
		case r.Type.IsError():
			return &optionError{r.Type, string(payload)}
		case each == nil:
			return errMalformed
		}
		if err := each(r.Type, payload); err != nil {
			return err
		}
	}
}

// enter negotiates the export and begins transmission.
func (h *handshake) enter(o Options) (*Client, error) {
	c := &Client{conn: h.Conn, r: h.r, name: o.Export, contexts: map[uint32]string{}, calls: map[uint64]*call{}, ended: make(chan struct{})}
	if o.Structured || len(o.Contexts) > 0 {
		if err := h.ask(nbdproto.OptStructuredReply, nil, nil); err != nil {
			return nil, err
		}
		c.structured = true
	}
	if len(o.Contexts) > 0 {
		data := nbdproto.AppendMeta(nil, nbdproto.MetaData{Name: o.Export, Queries: o.Contexts})
		if err := h.ask(nbdproto.OptSetMetaContext, data, c.takeContext); err != nil {
			return nil, err
		}
	}
	data := nbdproto.AppendGo(nil, nbdproto.GoData{Name: o.Export, Infos: []uint16{nbdproto.InfoBlockSize}})
	if err := h.ask(nbdproto.OptGo, data, c.takeInfo); err != nil {
		return nil, err
	}
	return c, h.SetDeadline(time.Time{})
}

func (c *Client) takeContext(_ nbdproto.OptionReply, data []byte) error {
	if len(data) < 5 {
		return errMalformed
	}
	c.contexts[be.Uint32(data)] = string(data[4:])
	return nil
}

func (c *Client) takeInfo(_ nbdproto.OptionReply, data []byte) error {
	if len(data) < 2 {
		return errMalformed
	}
	switch kind, data := be.Uint16(data), data[2:]; {
	case kind == nbdproto.InfoExport && len(data) == 10:
		c.size, c.flags = int64(be.Uint64(data)), be.Uint16(data[8:])
	case kind == nbdproto.InfoBlockSize && len(data) == 12:
		for i := range c.sizes {
			c.sizes[i] = be.Uint32(data[4*i:])
		}
	}
	return nil
}
