//go:build linux

package ltfsmount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/ltfs"
)

// prefix is the kernel's name space in which the attributes of LTFS live.
const prefix = "user."

// Flags of setxattr(2).
const (
	mustBeNew   = 1
	mustBeThere = 2
)

// Getxattr reads a virtual or stored attribute.
func (n *node) Getxattr(ctx context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	key, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, syscall.ENODATA
	}
	value, errno := n.attribute(ctx, key)
	if errno != 0 {
		return 0, errno
	}
	return reply(dest, value)
}

func reply(dest, value []byte) (uint32, syscall.Errno) {
	switch {
	case len(dest) == 0: // only the size was asked for
	case len(dest) < len(value):
		return uint32(len(value)), syscall.ERANGE
	default:
		copy(dest, value)
	}
	return uint32(len(value)), 0
}

func (n *node) attribute(ctx context.Context, key string) ([]byte, syscall.Errno) {
	if key == "ltfs.sync" && n.IsRoot() {
		return nil, errnoOf(n.m.fs.Sync(lasting(ctx), syncpolicy.Manual, false))
	}
	if text, ok := n.virtual(ctx, key); ok {
		return []byte(text), 0
	}
	for _, x := range n.n.XAttrs() {
		if x.Key == key {
			return x.Value, 0
		}
	}
	return nil, syscall.ENODATA
}

// Setxattr writes a virtual or stored attribute.
func (n *node) Setxattr(ctx context.Context, name string, value []byte, flags uint32) syscall.Errno {
	key, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return syscall.EOPNOTSUPP
	}
	if handled, err := n.setVirtual(ctx, key, string(value)); handled {
		return errnoOf(err)
	}
	if _, reserved := n.virtual(ctx, key); reserved {
		return syscall.EACCES
	}
	if flags != 0 {
		_, errno := n.attribute(ctx, key)
		switch {
		case flags&mustBeNew != 0 && errno == 0:
			return syscall.EEXIST
		case flags&mustBeThere != 0 && errno != 0:
			return syscall.ENODATA
		}
	}
	return errnoOf(n.n.SetXAttr(key, append([]byte{}, value...)))
}

// Removexattr removes a stored attribute.
func (n *node) Removexattr(_ context.Context, name string) syscall.Errno {
	key, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return syscall.ENODATA
	}
	err := n.n.SetXAttr(key, nil)
	if errors.Is(err, tape.ErrNoXAttr) {
		return syscall.ENODATA
	}
	return errnoOf(err)
}

// Listxattr lists the stored attributes; the virtual ones are not listed, so that
// copying a file does not copy them.
func (n *node) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	var list []byte
	for _, x := range n.n.XAttrs() {
		list = append(append(append(list, prefix...), x.Key...), 0)
	}
	return reply(dest, list)
}

// timeOf finds the time that an attribute names.
func timeOf(t *ltfs.Times, key string) *ltfs.Timestamp {
	switch key {
	case "ltfs.createTime":
		return &t.Creation
	case "ltfs.modifyTime":
		return &t.Modify
	case "ltfs.accessTime":
		return &t.Access
	case "ltfs.changeTime":
		return &t.Change
	case "ltfs.backupTime":
		return &t.Backup
	}
	return nil
}

// setVirtual writes what can be written of the virtual attributes.
func (n *node) setVirtual(ctx context.Context, key, value string) (handled bool, err error) {
	a := n.n.Attr()
	if n.IsRoot() {
		if handled, err := n.setOfMedium(ctx, key, value); handled {
			return true, err
		}
	}
	switch {
	case key == "ltfs.sync" && n.IsRoot():
		return true, n.m.fs.Sync(lasting(ctx), syncpolicy.Manual, false)
	case key == "ltfs.commitMessage" && n.IsRoot():
		return true, n.m.fs.SetComment(value)
	case key == "ltfs.volumeName" && n.IsRoot():
		return true, n.m.fs.SetVolumeName(value)
	case timeOf(&a.Times, key) != nil:
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return true, &cairn.Error{Op: "set time", Subject: value, Kind: cairn.KindInvalid, Err: syscall.EINVAL}
		}
		return true, n.n.SetTimes(func(t *ltfs.Times) { *timeOf(t, key) = ltfs.TimestampOf(at) })
	}
	return false, nil
}

// virtual reads the attributes that are not stored but told.
func (n *node) virtual(ctx context.Context, key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, "ltfs.")
	if !ok {
		return "", false
	}
	a := n.n.Attr()
	if t := timeOf(&a.Times, key); t != nil {
		return t.String(), true
	}
	t := n.m.fs.Tape()
	switch rest {
	case "fileUID":
		return strconv.FormatUint(a.UID, 10), true
	case "volumeUUID":
		return t.Label().VolumeUUID, true
	case "volumeName":
		return n.m.fs.VolumeName(), true
	case "softwareVersion":
		return n.m.opt.Version, true
	case "softwareFormatSpec":
		return ltfs.Version, true
	case "softwareVendor", "softwareProduct":
		return "Cairn", true
	case "partition":
		return string(a.First.Partition), a.HasData
	case "startblock":
		return strconv.FormatUint(a.First.Block, 10), a.HasData
	}
	if text, ok := n.ofMedium(ctx, rest); ok {
		return text, true
	}
	if rest == "volumeLockState" {
		ix, _ := n.m.fs.Header()
		return ix.Lock.String(), true
	}
	if n.IsRoot() {
		return n.ofVolume(ctx, rest)
	}
	return "", false
}

// ofVolume reads the attributes that only the root has.
func (n *node) ofVolume(ctx context.Context, key string) (string, bool) {
	label := n.m.fs.Tape().Label()
	ix, comment := n.m.fs.Header()
	s := n.m.fs.Status()
	switch key {
	case "commitMessage":
		return comment, true
	case "indexGeneration":
		return strconv.FormatUint(s.Generation, 10), true
	case "indexTime":
		return ix.UpdateTime.String(), true
	case "indexLocation":
		return place(s.Location), true
	case "indexPrevious":
		return place(ix.Previous), !ix.Previous.IsZero()
	case "indexCreator":
		return ix.Creator, true
	case "indexVersion":
		return ltfs.Version, true
	case "labelVersion":
		return label.Version, true
	case "labelCreator":
		return label.Creator, true
	case "volumeFormatTime":
		return label.FormatTime.String(), true
	case "volumeBlocksize":
		return strconv.FormatUint(label.BlockSize, 10), true
	case "volumeCompression":
		return strconv.FormatBool(label.Compression), true
	case "partitionMap":
		return fmt.Sprintf("I:%c,D:%c", label.IndexPart, label.DataPart), true
	case "policyExists":
		return strconv.FormatBool(ix.Policy != nil), true
	case "policyAllowUpdate":
		return strconv.FormatBool(ix.AllowPolicyUpdate), true
	case "policyMaxFileSize":
		if ix.Policy == nil {
			return "0", true
		}
		return strconv.FormatUint(ix.Policy.MaxSize, 10), true
	case "vendor.cairn.status":
		return n.m.reportText()
	}
	return n.ours(key, s)
}

// ours are the attributes that other LTFS software has not.
func (n *node) ours(key string, s tape.Status) (string, bool) {
	switch key {
	case "vendor.cairn.atRisk":
		return riskText(s.Risk, time.Now()), true
	case "vendor.cairn.openForWrite":
		return strconv.Itoa(s.Open), true
	case "vendor.cairn.syncState":
		return syncText(s), true
	case "vendor.cairn.indexBytes":
		return strconv.FormatInt(s.IndexBytes, 10), true
	case "vendor.cairn.drive":
		return n.m.opt.Drive, true
	case "vendor.cairn.pid":
		return strconv.Itoa(os.Getpid()), true
	}
	return "", false
}

func place(l ltfs.Location) string { return fmt.Sprintf("%c:%d", l.Partition, l.Block) }

// riskText is what a power cut now would lose, in words.
func riskText(r tape.Risk, now time.Time) string {
	if r == (tape.Risk{}) {
		return "nothing"
	}
	return fmt.Sprintf("%d files, %d bytes, %d other changes, of the last %d seconds", r.Files, r.Bytes, r.Changes, int(now.Sub(r.Since).Seconds()))
}

// stateOf is how writing indexes goes, in one of the words that say so of
// everything.
func stateOf(s tape.Status) string {
	switch {
	case s.Broken != nil:
		return "damaged"
	case cairn.KindOf(s.Err) == cairn.KindStuck:
		return "stuck"
	case s.Failures > 0:
		return "late"
	case s.Pace != syncpolicy.Free:
		return "degraded"
	}
	return "ok"
}

// syncText is how writing indexes goes, in words.
func syncText(s tape.Status) string {
	switch {
	case s.Broken != nil:
		return "stopped: " + s.Broken.Error()
	case cairn.KindOf(s.Err) == cairn.KindStuck:
		return "stuck: " + s.Err.Error()
	case s.Failures > 0:
		return fmt.Sprintf("failing, %d times since the last success: %v", s.Failures, s.Err)
	case s.Pace == syncpolicy.Slow:
		return "slowed: half of the budget for indexes is spent; a close waits for none, one is written per minute"
	case s.Pace == syncpolicy.Exhausted:
		return "exhausted: the budget for indexes is spent; the next one is written when it is unmounted"
	}
	return "ok"
}
