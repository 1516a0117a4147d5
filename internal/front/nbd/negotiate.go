package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"cairn/internal/format/nbdproto"
)

// Limits of a handshake: what a client may make us read and hold.
const (
	maxOptionData = 64 << 10
	maxOptions    = 256
	maxListed     = 64 << 10 // names in an answer to a list
)

var (
	be         = binary.BigEndian
	errAborted = fmt.Errorf("the client ended the handshake: %w", io.EOF)
)

// negotiation is the state of one handshake.
type negotiation struct {
	*conn
	noZeroes   bool
	secure     bool // TLS has started
	structured bool
	export     *Export
	contexts   []string // names that were set; the index is the context's id
	contextsOf string   // the export that they were set for
}

// run leads the handshake until transmission begins (nil) or the client leaves.
func (n *negotiation) run(ctx context.Context) error {
	var hello [18]byte
	be.PutUint64(hello[:], nbdproto.MagicServer)
	be.PutUint64(hello[8:], nbdproto.MagicOption)
	be.PutUint16(hello[16:], nbdproto.FlagFixedNewstyle|nbdproto.FlagNoZeroes)
	if _, err := n.Write(hello[:]); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(n.r, flags[:]); err != nil {
		return err
	}
	f := be.Uint32(flags[:])
	if f&^uint32(nbdproto.FlagFixedNewstyle|nbdproto.FlagNoZeroes) != 0 {
		return fmt.Errorf("the client set unknown handshake flags %#x", f)
	}
	n.noZeroes = f&uint32(nbdproto.FlagNoZeroes) != 0
	for range maxOptions {
		done, err := n.option(ctx)
		if done || err != nil {
			return err
		}
	}
	return errors.New("the client sent more options than a handshake needs")
}

// option reads and answers one option; done means that transmission begins.
func (n *negotiation) option(ctx context.Context) (done bool, err error) {
	var head [nbdproto.OptionHeaderSize]byte
	if _, err := io.ReadFull(n.r, head[:]); err != nil {
		return false, err
	}
	h, ok := nbdproto.ParseOptionHeader(head[:])
	if !ok {
		return false, errors.New("the client sent something that is no option")
	}
	if h.Length > maxOptionData {
		if _, err := io.CopyN(io.Discard, n.r, int64(h.Length)); err != nil {
			return false, err
		}
		if h.Option == nbdproto.OptExportName {
			return false, errors.New("the client asked for an export with an overlong name")
		}
		return false, n.reply(h.Option, nbdproto.RepErrTooBig, "the option is too long")
	}
	data := make([]byte, h.Length)
	if _, err := io.ReadFull(n.r, data); err != nil {
		return false, err
	}
	if n.o.TLS != nil && !n.secure && h.Option != nbdproto.OptStartTLS && h.Option != nbdproto.OptAbort {
		if h.Option == nbdproto.OptExportName {
			return false, errors.New("the client did not start TLS")
		}
		return false, n.reply(h.Option, nbdproto.RepErrTLSReqd, "this server requires TLS")
	}
	return n.answer(ctx, h.Option, data)
}

func (n *negotiation) answer(ctx context.Context, o nbdproto.Option, data []byte) (done bool, err error) {
	switch o {
	case nbdproto.OptExportName:
		return true, n.exportName(ctx, string(data))
	case nbdproto.OptGo, nbdproto.OptInfo:
		return n.info(ctx, o, data)
	case nbdproto.OptListMetaContext, nbdproto.OptSetMetaContext:
		return false, n.metaContext(ctx, o, data)
	}
	if len(data) > 0 && (o == nbdproto.OptList || o == nbdproto.OptStartTLS || o == nbdproto.OptStructuredReply) {
		return false, n.reply(o, nbdproto.RepErrInvalid, "this option takes no data")
	}
	switch o {
	case nbdproto.OptAbort:
		_ = n.reply(o, nbdproto.RepAck, "") // the client may be gone already
		return false, errAborted
	case nbdproto.OptList:
		return false, n.list(ctx)
	case nbdproto.OptStartTLS:
		return false, n.tls(ctx)
	case nbdproto.OptStructuredReply:
		n.structured = true
		return false, n.reply(o, nbdproto.RepAck, "")
	}
	return false, n.reply(o, nbdproto.RepErrUnsup, "this server does not know the option")
}

// reply sends one option reply; text is its data.
func (n *negotiation) reply(o nbdproto.Option, t nbdproto.OptionReply, text string) error {
	if len(text) > nbdproto.MaxString {
		text = text[:nbdproto.MaxString]
	}
	_, err := n.Write(nbdproto.AppendOptionReply(nil, o, t, []byte(text)))
	return err
}

func (n *negotiation) tls(ctx context.Context) error {
	switch {
	case n.o.TLS == nil:
		return n.reply(nbdproto.OptStartTLS, nbdproto.RepErrPolicy, "this server has no certificate")
	case n.secure:
		return n.reply(nbdproto.OptStartTLS, nbdproto.RepErrInvalid, "TLS has started already")
	}
	if err := n.reply(nbdproto.OptStartTLS, nbdproto.RepAck, ""); err != nil {
		return err
	}
	n.secure = true
	return n.startTLS(ctx)
}

func (n *negotiation) list(ctx context.Context) error {
	names, err := n.o.Exports.List(ctx)
	if err != nil {
		return n.reply(nbdproto.OptList, nbdproto.RepErrPolicy, err.Error())
	}
	if len(names) > maxListed {
		return n.reply(nbdproto.OptList, nbdproto.RepErrTooBig, "there are too many exports to list")
	}
	var out []byte
	for _, name := range names {
		out = nbdproto.AppendOptionReply(out, nbdproto.OptList, nbdproto.RepServer, nbdproto.AppendString(nil, name))
	}
	_, err = n.Write(nbdproto.AppendOptionReply(out, nbdproto.OptList, nbdproto.RepAck, nil))
	return err
}

// open opens the named export, or keeps the one that an option before opened.
func (n *negotiation) open(ctx context.Context, name string) error {
	if n.export != nil && n.export.Name == name {
		return nil
	}
	n.close()
	if len(name) > nbdproto.MaxString {
		return refusal{nbdproto.EINVAL, "an export's name has at most 4096 bytes"}
	}
	e, err := n.o.Exports.Open(ctx, name)
	if err != nil {
		return err
	}
	opened := *e
	opened.Name = name
	if opened.Reader == nil {
		opened.Reader = opened.Device
	}
	n.export = &opened
	return nil
}

// close releases the export, if one is open.
func (n *negotiation) close() {
	if n.export != nil && n.export.Close != nil {
		if err := n.export.Close(); err != nil {
			n.log.Warn("cannot release an NBD export", "export", n.export.Name, "err", err)
		}
	}
	n.export = nil
}

// flags are the transmission flags of the open export.
func (n *negotiation) flags() uint16 {
	f := nbdproto.ExportHasFlags | nbdproto.ExportMultiConn | nbdproto.ExportCache
	if n.structured {
		f |= nbdproto.ExportDF
	}
	if n.export.Device == nil {
		return f | nbdproto.ExportReadOnly
	}
	return f | nbdproto.ExportFlush | nbdproto.ExportFUA | nbdproto.ExportTrim | nbdproto.ExportWriteZeroes | nbdproto.ExportFastZero
}

func (n *negotiation) exportName(ctx context.Context, name string) error {
	if err := n.open(ctx, name); err != nil {
		return err // this option has no error reply: the connection ends
	}
	out := be.AppendUint64(nil, uint64(n.export.Reader.Size()))
	out = be.AppendUint16(out, n.flags())
	if !n.noZeroes {
		out = append(out, make([]byte, nbdproto.ExportNamePadding)...)
	}
	n.keepContexts(name)
	_, err := n.Write(out)
	return err
}

func (n *negotiation) info(ctx context.Context, o nbdproto.Option, data []byte) (done bool, err error) {
	g, ok := nbdproto.ParseGo(data)
	if !ok {
		return false, n.reply(o, nbdproto.RepErrInvalid, "the option is malformed")
	}
	if err := n.open(ctx, g.Name); err != nil {
		return false, n.reply(o, optionError(err), err.Error())
	}
	var out []byte
	add := func(info []byte) { out = nbdproto.AppendOptionReply(out, o, nbdproto.RepInfo, info) }
	e := be.AppendUint16(nil, nbdproto.InfoExport)
	e = be.AppendUint64(e, uint64(n.export.Reader.Size()))
	add(be.AppendUint16(e, n.flags()))
	b := be.AppendUint16(nil, nbdproto.InfoBlockSize)
	b = be.AppendUint32(b, uint32(n.minimum()))
	b = be.AppendUint32(b, pageSize)
	add(be.AppendUint32(b, MaxPayload))
	for _, i := range g.Infos {
		if i == nbdproto.InfoName {
			add(append(be.AppendUint16(nil, i), g.Name...))
		}
		if i == nbdproto.InfoDescription && n.export.Description != "" {
			add(append(be.AppendUint16(nil, i), n.export.Description...))
		}
	}
	if done = o == nbdproto.OptGo; done {
		n.keepContexts(g.Name)
	}
	_, err = n.Write(nbdproto.AppendOptionReply(out, o, nbdproto.RepAck, nil))
	return done, err
}

// minimum is the smallest block size in bytes: a snapshot can be read bytewise.
func (n *negotiation) minimum() int {
	if n.export.Device == nil {
		return 1
	}
	return n.export.Device.Sector()
}

// keepContexts drops contexts that were negotiated for another export.
func (n *negotiation) keepContexts(name string) {
	if n.contextsOf != name {
		n.contexts = nil
	}
}

// metaContext lists or sets metadata contexts. Setting replaces what was set.
func (n *negotiation) metaContext(ctx context.Context, o nbdproto.Option, data []byte) error {
	set := o == nbdproto.OptSetMetaContext
	m, ok := nbdproto.ParseMeta(data)
	switch {
	case !ok:
		return n.reply(o, nbdproto.RepErrInvalid, "the option is malformed")
	case !n.structured:
		return n.reply(o, nbdproto.RepErrInvalid, "metadata contexts need structured replies")
	}
	if set {
		n.contexts, n.contextsOf = nil, m.Name
	}
	if err := n.open(ctx, m.Name); err != nil {
		return n.reply(o, optionError(err), err.Error())
	}
	var out []byte
	for _, name := range available(n.export) {
		if !asked(m.Queries, name, !set) {
			continue
		}
		id := uint32(len(n.contexts))
		if set {
			n.contexts = append(n.contexts, name)
		}
		out = nbdproto.AppendOptionReply(out, o, nbdproto.RepMetaContext, append(be.AppendUint32(nil, id), name...))
	}
	_, err := n.Write(nbdproto.AppendOptionReply(out, o, nbdproto.RepAck, nil))
	return err
}

// available names the contexts of an export.
func available(e *Export) []string {
	names := []string{nbdproto.ContextAllocation}
	for _, c := range e.Contexts {
		names = append(names, c.Name)
	}
	return names
}

// asked reports whether a query selects the context: by its full name or, in a
// list, by a prefix that ends in a colon; a list without queries selects all.
func asked(queries []string, name string, list bool) bool {
	for _, q := range queries {
		if q == name || list && strings.HasSuffix(q, ":") && strings.HasPrefix(name, q) {
			return true
		}
	}
	return list && len(queries) == 0
}
