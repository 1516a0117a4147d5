package nbd

import (
	"context"
	"errors"

	"cairn"
	"cairn/internal/format/nbdproto"
)

// errnoOf translates an error of a device into the protocol's list. What has no
// number of its own is an I/O error: the client's data is not where it should be.
func errnoOf(err error) nbdproto.Errno {
	switch cairn.KindOf(err) {
	case cairn.KindInvalid:
		return nbdproto.EINVAL
	case cairn.KindPermission, cairn.KindAuth:
		return nbdproto.EPERM
	case cairn.KindSpace:
		return nbdproto.ENOSPC
	case cairn.KindUnsupported:
		return nbdproto.ENOTSUP
	case cairn.KindCanceled:
		return nbdproto.ESHUTDOWN
	}
	if errors.Is(err, context.Canceled) {
		return nbdproto.ESHUTDOWN
	}
	return nbdproto.EIO
}

// refusal is an answer that the server gives by itself, before any device.
type refusal struct {
	errno nbdproto.Errno
	why   string
}

func (r refusal) Error() string { return r.why }

func numberOf(err error) nbdproto.Errno {
	var r refusal
	if errors.As(err, &r) {
		return r.errno
	}
	return errnoOf(err)
}

// optionError chooses the reply to an option whose export could not be opened.
func optionError(err error) nbdproto.OptionReply {
	switch cairn.KindOf(err) {
	case cairn.KindNotFound, cairn.KindInvalid:
		return nbdproto.RepErrUnknown
	case cairn.KindCanceled:
		return nbdproto.RepErrShutdown
	}
	return nbdproto.RepErrPolicy
}
