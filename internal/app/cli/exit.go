package cli

import (
	"errors"
	"fmt"
	"strings"

	"cairn"
)

// The exit codes that no Kind gives. docs/guide/exit-codes.md is made from this
// file; a test compares them.
const (
	exitOK        = 0
	exitOther     = 1   // cairn.KindOther
	exitUsage     = 2   // the command was called wrongly; nothing was done
	exitKinds     = 10  // plus the number of the cairn.Kind
	exitInterrupt = 130 // a signal ended the command
)

// exitCode is the one place where an error becomes a number.
func exitCode(err error, interrupted bool) int {
	var usage *usageError
	kind := cairn.KindOf(err)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case interrupted && (kind == cairn.KindCanceled || kind == cairn.KindOther):
		return exitInterrupt
	case kind == cairn.KindOther:
		return exitOther
	}
	return exitKinds + int(kind)
}

// kindAdvice says in the table what a script may do about each kind.
var kindAdvice = map[cairn.Kind]string{
	cairn.KindInvalid:     "the request makes no sense; change it",
	cairn.KindNotFound:    "a dataset, version, file or job is not there",
	cairn.KindExists:      "it is there already",
	cairn.KindConflict:    "histories disagree, or a name and its GUID do; decide, then try again",
	cairn.KindBusy:        "in use: leased, open elsewhere or locked; wait, or end the user",
	cairn.KindSpace:       "no room; make room, then it resumes",
	cairn.KindPermission:  "the user or the identity may not",
	cairn.KindUnavailable: "the daemon or a place cannot be reached now; try again later",
	cairn.KindStuck:       "no progress within the limit; it was cancelled",
	cairn.KindCorrupt:     "bytes do not match their checksum or format",
	cairn.KindDamaged:     "stored data is known to be lost in part; heal or restore it",
	cairn.KindDegraded:    "a snapshot's data was given up; it is a bookmark now",
	cairn.KindUnsupported: "this place, format, kernel or build cannot do it",
	cairn.KindUnverified:  "nobody can tell what changed; verify, or mark it dirty",
	cairn.KindIO:          "a device or file system answered with an error",
	cairn.KindCanceled:    "cancelled by someone else, or a session was lost",
	cairn.KindAuth:        "a certificate or an identity was not accepted",
	cairn.KindConfig:      "the configuration file is wrong at the named place",
}

// ExitTable is the table of exit codes in Markdown.
func ExitTable() string {
	var b strings.Builder
	row := func(code int, word, meaning string) {
		_, _ = fmt.Fprintf(&b, "| %d | %s | %s |\n", code, word, meaning)
	}
	b.WriteString("| code | kind | meaning |\n|---:|---|---|\n")
	row(exitOK, "", "done")
	row(exitOther, cairn.KindOther.String(), "not classified; read the message")
	row(exitUsage, "", "the command was called wrongly; nothing was done")
	for _, k := range cairn.Kinds()[1:] {
		row(exitKinds+int(k), k.String(), kindAdvice[k])
	}
	row(exitInterrupt, "", "a signal (SIGINT or SIGTERM) ended the command")
	return b.String()
}
