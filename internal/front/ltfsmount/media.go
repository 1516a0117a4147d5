//go:build linux

package ltfsmount

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"syscall"

	"cairn"
	"cairn/client"
	"cairn/ltfs"
)

// counters are attributes of the root that other LTFS software reads from a drive's
// log pages. A drive here does not tell them: they read -1, which means unknown.
var counters = map[string]bool{
	"mediaLoads": true, "mediaRecoveredWriteErrors": true, "mediaRecoveredReadErrors": true, "mediaPermanentWriteErrors": true, "mediaPermanentReadErrors": true,
	"mediaPreviousPermanentWriteErrors": true, "mediaPreviousPermanentReadErrors": true, "mediaBeginningMediumPasses": true, "mediaMiddleMediumPasses": true,
	"mediaEfficiency": true, "mediaDatasetsWritten": true, "mediaDatasetsRead": true, "mediaMBWritten": true, "mediaMBRead": true,
}

// mediumText are attributes that stand in the medium's own memory.
var mediumText = map[string]uint16{
	"mamApplicationVendor": ltfs.AttrVendor, "mamApplicationVersion": ltfs.AttrApplicationVersion, "mamApplicationFormatVersion": ltfs.AttrFormatVersion,
	"mamBarcode": ltfs.AttrBarcode,
}

// ofMedium reads attributes about the medium and the drive, which all files have
// (those of mediumText) or the root only.
func (n *node) ofMedium(ctx context.Context, key string) (string, bool) {
	if id, ok := mediumText[key]; ok {
		return n.mediumAttribute(ctx, id), true
	}
	if !n.IsRoot() {
		return "", false
	}
	if counters[key] {
		return "-1", true
	}
	switch key {
	case "volumeSerial":
		return n.m.fs.Tape().Barcode(), true
	case "mediaStorageAlert":
		return "0", true
	case "mediaEncrypted":
		return "false", true
	case "driveEncryptionState":
		return "not supported", true
	case "driveEncryptionMethod":
		return "none", true
	case "mediaPool.additionalInfo":
		_, info, _ := strings.Cut(strings.TrimSuffix(n.mediumAttribute(ctx, ltfs.AttrMediaPool), "]"), "[")
		return info, true
	case "mediaDataPartitionTotalCapacity":
		total, _ := n.m.fs.Room()
		return strconv.FormatInt(total>>20, 10), true
	case "mediaDataPartitionAvailableSpace":
		_, left := n.m.fs.Room()
		return strconv.FormatInt(left>>20, 10), true
	case "mediaIndexPartitionTotalCapacity", "mediaIndexPartitionAvailableSpace":
		total, left, err := n.m.fs.IndexRoom(lasting(ctx))
		if strings.HasSuffix(key, "TotalCapacity") {
			left = total
		}
		return strconv.FormatInt(left>>20, 10), err == nil
	}
	return "", false
}

func (n *node) mediumAttribute(ctx context.Context, id uint16) string {
	value, err := n.m.fs.MediumAttribute(lasting(ctx), id)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(value), " \x00")
}

// setOfMedium writes what of it can be written.
func (n *node) setOfMedium(ctx context.Context, key, value string) (handled bool, err error) {
	bad := &cairn.Error{Op: "set attribute of tape", Subject: key, Kind: cairn.KindInvalid, Err: syscall.EINVAL}
	switch key {
	case "ltfs.mediaPool.additionalInfo":
		name, _, _ := strings.Cut(n.mediumAttribute(ctx, ltfs.AttrMediaPool), "[")
		return true, n.m.fs.SetMediumAttribute(ctx, ltfs.AttrMediaPool, name+"["+value+"]")
	case "ltfs.mamBarcode":
		if _, err := ltfs.AppendVOL1(nil, value); err != nil {
			return true, bad
		}
		return true, n.m.fs.SetMediumAttribute(ctx, ltfs.AttrBarcode, value)
	case "ltfs.volumeLockState":
		for _, lock := range []ltfs.Lock{ltfs.Unlocked, ltfs.Locked} {
			if value == lock.String() {
				return true, n.m.fs.SetLock(ctx, lock)
			}
		}
		return true, bad // to lock for ever asks twice: cairn tape lock
	case "ltfs.mediaStorageAlert": // no drive raises one
		return true, nil
	}
	return false, nil
}

// Report tells how the mount stands; the attribute ltfs.vendor.cairn.status of its
// root tells it, too, as JSON. It does not wait for the drive.
func (m *Mount) Report() client.Tape {
	s, t := m.fs.Status(), m.fs.Tape()
	r := client.Tape{Drive: m.opt.Drive, Folder: m.at.dir, PID: os.Getpid(), Name: m.fs.VolumeName(), Barcode: t.Barcode(), ReadOnly: s.ReadOnly, SyncCalls: m.at.sync, Policy: s.Policy.String(),
		Fsync: s.Fsync.String(), State: stateOf(s), Generation: s.Generation, LastIndex: s.LastIndex, IndexBytes: s.IndexBytes, IndexBudget: s.Budget, Failures: s.Failures,
		LastFailure: s.LastFailure, Waiting: s.Waiting, OpenForWrite: s.Open, AtRisk: client.TapeRisk(s.Risk), Total: s.Total, Free: s.Free}
	if r.State != "ok" {
		r.Why = syncText(s)
	}
	if s.LastErr != nil {
		r.LastError = s.LastErr.Error()
	}
	return r
}

func (m *Mount) reportText() (string, bool) {
	text, err := json.Marshal(m.Report())
	return string(text), err == nil
}
