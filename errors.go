package cairn

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is the closed list of what can go wrong. Numbers cross the wire and are
// the exit codes' source: append, never renumber. A Kind is itself an error, for
// errors.Is(err, cairn.KindSpace).
type Kind uint8

// The kinds. The comment says what a caller may do about it.
const (
	KindOther       Kind = 0  // not classified; a person has to read it
	KindInvalid     Kind = 1  // the request or configuration makes no sense; change it
	KindNotFound    Kind = 2  // dataset, version, file or job is not there
	KindExists      Kind = 3  // it is there already
	KindConflict    Kind = 4  // histories disagree, or a GUID does not match its name; decide and retry
	KindBusy        Kind = 5  // in use: leased, open elsewhere, locked; wait or end the user
	KindSpace       Kind = 6  // no room; make room, then it resumes
	KindPermission  Kind = 7  // the identity or user may not
	KindUnavailable Kind = 8  // place cannot be reached now; retry later
	KindStuck       Kind = 9  // no progress within the limit; was cancelled
	KindCorrupt     Kind = 10 // bytes do not match their checksum or format
	KindDamaged     Kind = 11 // stored data is known to be lost in part; heal or restore
	KindDegraded    Kind = 12 // a snapshot's data was given up; it is a bookmark now
	KindUnsupported Kind = 13 // this endpoint, format, kernel or build cannot
	KindUnverified  Kind = 14 // continuity of an origin cannot be shown; verify first
	KindIO          Kind = 15 // a device or file system answered with an error
	KindCanceled    Kind = 16 // the caller, a signal or a lost session ended it
	KindAuth        Kind = 17 // certificate or identity not accepted
	KindConfig      Kind = 18 // the configuration file is wrong at a named place
)

var kindNames = [...]string{
	"error", "invalid", "not found", "exists", "conflict", "busy", "space", "permission",
	"unavailable", "stuck", "corrupt", "damaged", "degraded", "unsupported", "unverified",
	"i/o error", "canceled", "authentication", "configuration",
}

// Kinds lists every kind in number order, for tables and for tests that must
// cover them all.
func Kinds() []Kind {
	kinds := make([]Kind, len(kindNames))
	for i := range kinds {
		kinds[i] = Kind(i)
	}
	return kinds
}

// String is the kind's word in messages.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string { return k.String() }

// Error is what failed, on what, and what the user can do next. It is returned or
// logged, never both.
type Error struct {
	Op      string // the verb phrase: "send", "open volume", "read catalog"
	Subject string // the address, path or job it failed on; may be empty
	Place   string // the endpoint it happened at, when that is not here
	Kind    Kind
	Err     error  // the cause; may be nil when Op and Hint say it all
	Hint    string // what the user can do, one sentence without a final dot
}

// Error renders "cannot OP SUBJECT at PLACE: CAUSE (HINT)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("cannot ")
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteString(" " + e.Subject)
	}
	if e.Place != "" {
		b.WriteString(" at " + e.Place)
	}
	switch {
	case e.Err != nil:
		b.WriteString(": " + e.Err.Error())
	case e.Kind != KindOther:
		b.WriteString(": " + e.Kind.String())
	}
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's Kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// KindOf returns the kind of the outermost *Error (or bare Kind) in err's chain,
// KindOther when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return KindOther
}

// HintOf returns the outermost hint in err's chain, empty when there is none.
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
