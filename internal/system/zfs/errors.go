package zfs

import (
	"context"
	"errors"
	"os/user"
	"strings"

	"cairn"
)

// A message of zfs, by words that its versions from 0.8 to 2.4 share, and what it
// means. The first that matches counts.
var messages = []struct {
	words string
	kind  cairn.Kind
	hint  string
}{
	{"permission denied", cairn.KindPermission, ""}, // the hint is made of the operation
	{"ZFS modules", cairn.KindUnavailable, "load the kernel's module with `modprobe zfs`"},
	{"pool I/O is currently suspended", cairn.KindIO, "look at `zpool status` and bring the pool's devices back"},
	{"no such pool", cairn.KindNotFound, "is the pool imported?"},
	{"out of space", cairn.KindSpace, "make room in the pool; what arrived is kept and goes on from there"},
	{"no space left", cairn.KindSpace, "make room in the pool"},
	{"quota exceeded", cairn.KindSpace, "raise the quota of the dataset, or make room"},
	{"does not match incremental source", cairn.KindConflict, "the histories differ: roll the receiver back to the last common snapshot"},
	{"not match incremental source", cairn.KindConflict, "the histories differ: roll the receiver back to the last common snapshot"},
	{"has been modified", cairn.KindConflict, "roll it back to its newest snapshot, and set readonly=on so that it stays as received"},
	{"must specify -F", cairn.KindConflict, "it is no replica of this dataset: destroy or rename it"},
	{"cannot be used to destroy an encrypted", cairn.KindConflict, "a placeholder and what replaces it are to be both encrypted or neither: destroy the placeholder, or receive raw"},
	{"cannot overwrite encrypted", cairn.KindConflict, "a placeholder and what replaces it are to be both encrypted or neither: destroy the placeholder, or receive raw"},
	{"more recent snapshots", cairn.KindConflict, "destroying them has to be asked for"},
	{"cannot receive incremental stream: destination", cairn.KindConflict, "the receiver has nothing that the increment stands on"},
	{"no longer the same snapshot", cairn.KindConflict, "the token is dead: give the cut receive up, and send anew"},
	{"cannot resume send", cairn.KindConflict, "the token is dead: give the cut receive up, and send anew"},
	{"resume token is corrupt", cairn.KindConflict, "the token is dead: give the cut receive up, and send anew"},
	{"checksum mismatch", cairn.KindCorrupt, "the stream was damaged on its way"},
	{"invalid stream", cairn.KindCorrupt, "the stream is no ZFS send stream, or was damaged on its way"},
	{"incomplete stream", cairn.KindCorrupt, "the stream was cut; what arrived is kept"},
	{"failed to read from stream", cairn.KindCorrupt, "the stream was cut; what arrived is kept"},
	{"encryption key not loaded", cairn.KindUnavailable, "`zfs load-key` first, or send raw (send: {encrypted: true})"},
	{"key must be loaded", cairn.KindUnavailable, "`zfs load-key` first, or send raw (send: {encrypted: true})"},
	{"Inherited key must be loaded", cairn.KindUnavailable, "`zfs load-key` first"},
	{"it's being held", cairn.KindBusy, "`cairn zfs holds list` shows who holds it"},
	{"dependent clone", cairn.KindBusy, "a clone stands on it"},
	{"has dependents", cairn.KindBusy, "something stands on it"},
	{"contains partially-complete state", cairn.KindBusy, "another receive is under way there, or one was cut that the next run goes on with"},
	{"is busy", cairn.KindBusy, "it is in use: mounted, being sent or received"},
	{"already exists", cairn.KindExists, ""},
	{"bookmark exists", cairn.KindExists, ""},
	{"dataset does not exist", cairn.KindNotFound, ""},
	{"does not exist", cairn.KindNotFound, ""},
	{"could not find any snapshots", cairn.KindNotFound, ""},
	{"unsupported feature", cairn.KindUnsupported, "the pool or its OpenZFS is older than what the stream needs"},
	{"unsupported version", cairn.KindUnsupported, "the pool or its OpenZFS is older than what the stream needs"},
	{"invalid option", cairn.KindUnsupported, "this OpenZFS is too old for it"},
	{"feature", cairn.KindUnsupported, "`zpool upgrade` gives an old pool what its OpenZFS can"},
	{"invalid character", cairn.KindInvalid, ""},
	{"name is too long", cairn.KindInvalid, "a name has at most 255 bytes"},
	{"I/O error", cairn.KindIO, "look at `zpool status`"},
	{"broken pipe", cairn.KindIO, ""},
}

// permissions are what `zfs allow` has to give for each operation.
var permissions = map[string]string{
	"list": "", "send": "send,hold", "receive": "receive,create,mount,userprop,readonly", "snapshot": "snapshot,mount", "bookmark": "bookmark",
	"destroy": "destroy,mount", "lease": "hold,release,bookmark,destroy,mount", "roll back": "rollback,destroy,mount", "rename": "rename,create,mount",
	"seal": "readonly", "resize": "volsize", "create placeholder": "create,mount,mountpoint,userprop", "abort receive into": "receive,destroy,mount",
}

// failed makes an error of a process an error of the place.
func (p *Place) failed(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	var own *cairn.Error
	if errors.As(err, &own) && own.Op != "run" && own.Op != "end" {
		return err
	}
	e := &cairn.Error{Op: op, Subject: subject, Kind: cairn.KindOf(err), Err: err}
	if p.o.Name != "here" {
		e.Place = p.o.Name
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Kind = cairn.KindCanceled
	case e.Kind == cairn.KindOther:
		e.Kind, e.Hint = classify(err.Error())
	}
	if isStuck(err) {
		e.Kind = cairn.KindStuck
	}
	if e.Kind == cairn.KindPermission {
		e.Hint = allowHint(op, subject)
	}
	if own != nil {
		e.Err = own.Err
	}
	return e
}

func classify(text string) (cairn.Kind, string) {
	for _, m := range messages {
		if strings.Contains(text, m.words) {
			return m.kind, m.hint
		}
	}
	return cairn.KindOther, ""
}

// allowHint names the command that gives the missing permission.
func allowHint(op, subject string) string {
	dataset := subject
	if i := strings.IndexAny(dataset, "@#"); i >= 0 {
		dataset = dataset[:i]
	}
	who := "USER"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if permissions[op] == "" {
		return "run as root, or let root give " + who + " the right with `zfs allow`"
	}
	if op == "receive" {
		if i := strings.LastIndexByte(dataset, '/'); i > 0 {
			dataset = dataset[:i]
		}
	}
	return "as root: zfs allow " + who + " " + permissions[op] + " '" + dataset + "'"
}

func isStuck(err error) bool {
	var e *cairn.Error
	return errors.As(err, &e) && e.Kind == cairn.KindStuck
}

// notThere are the messages of a listing that names datasets which do not exist;
// everything else that it may say is an error.
func notThere(err error) bool {
	text := err.Error()
	i := strings.Index(text, "cannot open '")
	if i < 0 {
		return false
	}
	for part := range strings.SplitSeq(text[i+1:], "cannot open '") {
		if !strings.HasSuffix(strings.TrimSpace(part), "does not exist") {
			return false
		}
	}
	return true
}
