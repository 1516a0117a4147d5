package transport

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"

	"cairn"
)

// The verdict a listening side sends once, before anything else: one byte, and
// for a refusal a length and the reason. Layout: docs/formats/rpc.md.
const (
	verdictAdmitted = 0
	verdictRefused  = 1
	maxReason       = 1024 // bytes
)

// sendVerdict tells the peer that it is admitted, or why not.
func sendVerdict(c io.Writer, refusal error) error {
	b := []byte{verdictAdmitted, 0, 0}
	if refusal != nil {
		reason := refusal.Error()
		if len(reason) > maxReason {
			reason = reason[:maxReason]
		}
		b[0] = verdictRefused
		binary.LittleEndian.PutUint16(b[1:], uint16(len(reason)))
		b = append(b, reason...)
	}
	if _, err := c.Write(b); err != nil {
		return errors.Join(refusal, err)
	}
	return refusal
}

// readVerdict waits for the peer's verdict.
func readVerdict(c io.Reader, address string) error {
	var head [3]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return verdictError(address, err)
	}
	n := int(binary.LittleEndian.Uint16(head[1:]))
	if head[0] == verdictAdmitted && n == 0 {
		return nil
	}
	if head[0] != verdictRefused || n > maxReason {
		return verdictError(address, errors.New("it does not speak Cairn's protocol"))
	}
	reason := make([]byte, n)
	if _, err := io.ReadFull(c, reason); err != nil {
		return verdictError(address, err)
	}
	return &cairn.Error{Op: "be admitted by", Subject: address, Kind: cairn.KindAuth,
		Err: errors.New(strings.ToValidUTF8(string(reason), "?"))}
}

func verdictError(address string, err error) error {
	return &cairn.Error{Op: "be admitted by", Subject: address, Kind: cairn.KindUnavailable, Err: err,
		Hint: "check that the address is a Cairn listener of the same transport type"}
}
