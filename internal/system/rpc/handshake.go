package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"cairn"
	"cairn/internal/mech/frame"
)

// The version of the protocol. Sides with unequal majors do not talk.
const (
	protocolMajor = 1
	protocolMinor = 0
)

// Roles of a connection, said in the preface.
const (
	roleControl = 1
	roleData    = 2
)

// preface is the first thing on every connection, in a layout that no version
// changes: magic, major, minor, role.
type preface struct {
	major, minor uint16
	role         uint8
}

const (
	magic       = "cairnrpc"
	prefaceSize = 16
)

func (p preface) bytes() []byte {
	b := append(make([]byte, 0, prefaceSize), magic...)
	b = binary.LittleEndian.AppendUint16(b, p.major)
	b = binary.LittleEndian.AppendUint16(b, p.minor)
	return append(b, p.role, 0, 0, 0)
}

func ourPreface(role uint8) []byte {
	return preface{protocolMajor, protocolMinor, role}.bytes()
}

// readPreface reads the peer's preface and refuses other protocols and versions.
func readPreface(r io.Reader) (preface, error) {
	var b [prefaceSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return preface{}, &cairn.Error{Op: "greet peer", Kind: cairn.KindUnavailable, Err: err}
	}
	if string(b[:8]) != magic || b[13]|b[14]|b[15] != 0 {
		return preface{}, &cairn.Error{Op: "greet peer", Kind: cairn.KindUnsupported, Err: errors.New("it does not speak Cairn's protocol"),
			Hint: "check that the address is a Cairn listener of the same transport type"}
	}
	p := preface{binary.LittleEndian.Uint16(b[8:]), binary.LittleEndian.Uint16(b[10:]), b[12]}
	if p.major != protocolMajor {
		older := "this side"
		if p.major < protocolMajor {
			older = "the peer"
		}
		return p, &cairn.Error{Op: "greet peer", Kind: cairn.KindUnsupported,
			Err:  fmt.Errorf("it speaks version %d.%d of the protocol, this side %d.%d", p.major, p.minor, protocolMajor, protocolMinor),
			Hint: "upgrade Cairn on " + older}
	}
	return p, nil
}

// within runs fn with everything it does on conn bounded by d and ctx.
func within(ctx context.Context, conn net.Conn, d time.Duration, fn func() error) error {
	if err := conn.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := fn()
	if !stop() {
		return errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// greetControl is the calling side's half of a control connection's handshake, up to
// our hello.
func greetControl(conn net.Conn, in *patient, own *hello) error {
	first := append(ourPreface(roleControl), frame.Append(nil, frame.Header{Type: frameHello}, encode(own))...)
	if _, err := conn.Write(first); err != nil {
		return &cairn.Error{Op: "greet peer", Kind: cairn.KindUnavailable, Err: err}
	}
	_, err := readPreface(in)
	return err
}

// greetData is the calling side's whole handshake of a data connection.
func greetData(conn net.Conn, in *patient, token []byte) error {
	first := append(ourPreface(roleData), frame.Append(nil, frame.Header{Type: frameAttach}, encode(&attach{token}))...)
	if _, err := conn.Write(first); err != nil {
		return &cairn.Error{Op: "greet peer", Kind: cairn.KindUnavailable, Err: err}
	}
	_, err := readPreface(in)
	return err
}

// readMessage reads one message of the given type during a handshake.
func readMessage(in *frame.Reader, kind uint8, m message) error {
	h, p, err := in.Next()
	for err == nil && h.Type == frameBeat {
		h, p, err = in.Next()
	}
	if err != nil {
		return &cairn.Error{Op: "greet peer", Kind: cairn.KindUnavailable, Err: err}
	}
	if h.Type == frameFault {
		var f fault
		if err := decode(p, &f); err != nil {
			return err
		}
		return f.err
	}
	if h.Type != kind {
		return &cairn.Error{Op: "greet peer", Kind: cairn.KindCorrupt, Err: errMalformed}
	}
	return decode(p, m)
}
