package rpc

import (
	"context"
	"errors"

	"cairn"
)

// The forms an error's chain takes on the wire.
const (
	faultNone  = 0 // no error
	faultCairn = 1 // *cairn.Error: its fields, then its cause
	faultKind  = 2 // a bare kind
	faultText  = 3 // any other error: its text, then the *cairn.Error it wraps, if any

	maxFaultDepth = 16
)

// fault is an error that crosses the wire with kinds, hints and places kept, so
// that errors.Is with a kind, cairn.KindOf and cairn.HintOf answer the same on
// either side. Other identities end at the wire: of them the text is kept.
type fault struct{ err error }

func (f *fault) code(c *coder) { codeFault(c, &f.err, 0) }

// codeError codes an error inside another message.
func codeError(c *coder, err *error) { codeFault(c, err, 0) }

func codeFault(c *coder, err *error, depth int) {
	form := uint8(faultNone)
	var known *cairn.Error
	var kind cairn.Kind
	switch e := (*err).(type) { //nolint:errorlint // the chain is coded link by link
	case nil:
	case *cairn.Error:
		form, known = faultCairn, e
	case cairn.Kind:
		form, kind = faultKind, e
	default:
		form = faultText
	}
	if depth >= maxFaultDepth {
		form = faultNone
	}
	small(c, &form)
	got := error(nil)
	switch form {
	case faultNone:
	case faultCairn:
		codeCairnError(c, &known, depth)
		got = known
	case faultKind:
		small(c, &kind)
		got = kind
	case faultText:
		got = codeOther(c, *err, depth)
	default:
		c.fail()
	}
	if c.reading {
		*err = got
	}
}

func codeCairnError(c *coder, e **cairn.Error, depth int) {
	if c.reading {
		*e = new(cairn.Error)
	}
	text(c, &(*e).Op)
	text(c, &(*e).Subject)
	text(c, &(*e).Place)
	small(c, &(*e).Kind)
	text(c, &(*e).Hint)
	cause := (*e).Err
	codeFault(c, &cause, depth+1)
	if c.reading {
		(*e).Err = cause
	}
}

func codeOther(c *coder, err error, depth int) error {
	var words string
	var inner error
	if !c.reading {
		words = err.Error()
		var known *cairn.Error
		var kind cairn.Kind
		if errors.As(err, &known) {
			inner = known
		} else if errors.As(err, &kind) {
			inner = kind
		}
	}
	text(c, &words)
	codeFault(c, &inner, depth+1)
	return &remoteText{words, inner}
}

// remoteText is an error of another process, of which the words are left.
type remoteText struct {
	words string
	inner error
}

func (e *remoteText) Error() string { return e.words }
func (e *remoteText) Unwrap() error { return e.inner }

// fromPeer makes an error of the peer one of ours: it says at which place it
// happened.
func fromPeer(err error, op, subject, place string) error {
	known, ok := err.(*cairn.Error) //nolint:errorlint // the outermost alone says what failed
	if !ok {
		return &cairn.Error{Op: op, Subject: subject, Place: place, Kind: cairn.KindOf(err), Err: err}
	}
	if known.Place == "" {
		known.Place = place
	}
	return known
}

// ended is the error of a call whose context ended.
func ended(ctx context.Context, op, subject, place string) error {
	return &cairn.Error{Op: op, Subject: subject, Place: place, Kind: cairn.KindCanceled, Err: ctx.Err()}
}
