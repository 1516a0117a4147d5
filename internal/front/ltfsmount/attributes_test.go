//go:build linux

package ltfsmount_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/client"
	"cairn/internal/front/ltfsmount"
	"cairn/internal/testkit/tapemount"
)

// Every virtual attribute that other LTFS software has can be read.
func TestEveryAttributeOfTheReference(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "unmount")
	must(t, os.WriteFile(m.Path("f"), []byte("data"), 0o644))
	m.SetAttr("", "ltfs.sync", "1")
	for _, of := range []struct{ file, names string }{
		{"f", `createTime modifyTime accessTime changeTime backupTime fileUID volumeUUID volumeName softwareVersion softwareFormatSpec softwareVendor softwareProduct
			mamBarcode mamApplicationVendor mamApplicationVersion mamApplicationFormatVersion volumeLockState partition startblock`},
		{"", `indexVersion labelVersion indexGeneration indexTime indexLocation indexPrevious indexCreator labelCreator policyExists policyAllowUpdate
			policyMaxFileSize volumeFormatTime volumeBlocksize volumeCompression partitionMap volumeSerial mediaLoads mediaRecoveredWriteErrors mediaRecoveredReadErrors
			mediaPermanentWriteErrors mediaPermanentReadErrors mediaPreviousPermanentWriteErrors mediaPreviousPermanentReadErrors mediaBeginningMediumPasses
			mediaMiddleMediumPasses mediaEfficiency mediaStorageAlert mediaDatasetsWritten mediaDatasetsRead mediaMBWritten mediaMBRead mediaDataPartitionTotalCapacity
			mediaDataPartitionAvailableSpace mediaIndexPartitionTotalCapacity mediaIndexPartitionAvailableSpace mediaEncrypted mediaPool.additionalInfo
			driveEncryptionState driveEncryptionMethod commitMessage sync`},
	} {
		for name := range strings.FieldsSeq(of.names) {
			if _, err := syscall.Getxattr(m.Path(of.file), "user.ltfs."+name, make([]byte, 4096)); err != nil {
				t.Errorf("%s of %q: %v", name, of.file, err)
			}
		}
	}
	for name, want := range map[string]string{"mamApplicationVendor": "CAIRN", "mediaLoads": "-1", "mamApplicationFormatVersion": "2.4.0", "mediaEncrypted": "false"} {
		if got := m.Attr("", "ltfs."+name); got != want {
			t.Errorf("%s reads %q, want %q", name, got, want)
		}
	}
	m.SetAttr("", "ltfs.mediaPool.additionalInfo", "shelf 7")
	m.SetAttr("", "ltfs.mamBarcode", "OFF003")
	if pool, barcode := m.Attr("", "ltfs.mediaPool.additionalInfo"), m.Attr("f", "ltfs.mamBarcode"); pool != "shelf 7" || barcode != "OFF003" {
		t.Errorf("%q, %q", pool, barcode)
	}
	m.Unmount()
}

// A locked volume takes no changes, says so after mounting anew, and is unlocked by
// the same attribute.
func TestVolumeLock(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "unmount")
	set := func(value string) error {
		return syscall.Setxattr(m.Dir, "user.ltfs.volumeLockState", []byte(value), 0)
	}
	f, err := os.Create(m.Path("f"))
	must(t, err)
	if err := set("locked"); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("with a file open for writing: %v", err)
	}
	must(t, f.Close())
	must(t, set("locked"))
	if err := os.WriteFile(m.Path("g"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a locked volume takes a file: %v", err)
	}
	must(t, set("unlocked"))
	must(t, os.WriteFile(m.Path("g"), nil, 0o644))
	must(t, set("locked"))
	if err := set("permlocked"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("for ever, by an attribute: %v", err)
	}
	m.Again()
	if state := m.Attr("f", "ltfs.volumeLockState"); state != "locked" {
		t.Errorf("after mounting anew: %s", state)
	}
	if err := os.Remove(m.Path("g")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("after mounting anew a file can be removed: %v", err)
	}
	m.Unmount()
}

// The report tells how things stand, for programs.
func TestReport(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "close,time@7m")
	f, err := os.Create(m.Path("f"))
	must(t, err)
	_, err = f.WriteString("12345")
	must(t, err)
	var r client.Tape
	must(t, json.Unmarshal([]byte(m.Attr("", "ltfs.vendor.cairn.status")), &r))
	if r.State != "ok" || r.AtRisk.Bytes != 5 || r.AtRisk.Files != 1 || r.OpenForWrite != 1 || r.Policy != "unmount,time@7m0s,close" || r.Fsync != "index" || r.PID != m.Server.Process.Pid || r.Total == 0 {
		t.Errorf("%+v", r)
	}
	must(t, f.Close())
	for range 1000 { // the kernel tells of the release after close has returned
		r = client.Tape{}
		must(t, json.Unmarshal([]byte(m.Attr("", "ltfs.vendor.cairn.status")), &r))
		if r.OpenForWrite == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if r.AtRisk.Bytes != 0 || r.OpenForWrite != 0 || r.Generation != 2 {
		t.Errorf("after the close: %+v", r)
	}
	m.Unmount()
}

// The mounted tapes of the machine are found, each with its report; one whose
// process has ended is told apart from one that does not answer.
func TestMountsOfTheMachine(t *testing.T) {
	m := mount(t, tapemount.NewTape(t), "unmount")
	find := func() (found client.Tape) {
		t.Helper()
		list, err := new(ltfsmount.Mounts).List(t.Context())
		must(t, err)
		for _, one := range list {
			if one.Folder == m.Dir {
				found = one
			}
		}
		return found
	}
	if got := find(); got.State != "ok" || got.PID != m.Server.Process.Pid || got.Total == 0 {
		t.Errorf("mounted: %+v", got)
	}
	must(t, m.Server.Process.Signal(syscall.SIGSTOP))
	stopped := func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.Server.Process.Pid))
		must(t, err)
		return strings.Contains(string(stat), ") T ")
	}
	for !stopped() { // a signal takes its time
		time.Sleep(time.Millisecond)
	}
	if got := find(); got.State != "unknown" || !strings.Contains(got.Why, "did not answer within") {
		t.Errorf("stopped: %+v", got)
	}
	must(t, m.Server.Process.Signal(syscall.SIGCONT))
	must(t, m.Server.Process.Kill())
	_ = m.Server.Wait() // it was killed
	defer syscall.Unmount(m.Dir, syscall.MNT_DETACH)
	if got := find(); got.State != "unknown" || !strings.Contains(got.Why, "has ended: cairn tape unmount "+m.Dir) {
		t.Errorf("killed: %+v", got)
	}
	must(t, syscall.Unmount(m.Dir, syscall.MNT_DETACH))
	if got := find(); got.Folder != "" {
		t.Errorf("unmounted: %+v", got)
	}
}

// When the budget of indexes makes close-sync fall back, the attributes and the log
// say so, and unmounting still ends in an index.
func TestFallingBackShows(t *testing.T) {
	log := t.TempDir() + "/log"
	m := tapemount.Mount(t, tapemount.NewTape(t), tapemount.Options{Sync: "close", Budget: 1 << 20, Log: log})
	var r client.Tape
	for i := 0; r.State != "degraded" && i < 200; i++ {
		must(t, os.WriteFile(m.Path(fmt.Sprint("f", i)), []byte("x"), 0o644))
		must(t, json.Unmarshal([]byte(m.Attr("", "ltfs.vendor.cairn.status")), &r))
	}
	if r.State != "degraded" || !strings.HasPrefix(r.Why, "slowed: half of the budget for indexes is spent") || r.IndexBytes == 0 || r.IndexBytes > r.IndexBudget {
		t.Errorf("status: %+v", r)
	}
	if state := m.Attr("", "ltfs.vendor.cairn.syncState"); state != r.Why {
		t.Errorf("attribute: %q", state)
	}
	m.Again() // the process has ended, and with it what it had to say
	if said, err := os.ReadFile(log); err != nil || !strings.Contains(string(said), "the budget for indexes is being spent") {
		t.Errorf("log: %s, %v", said, err)
	}
	if generation, err := strconv.ParseUint(m.Attr("", "ltfs.indexGeneration"), 10, 64); err != nil || generation < r.Generation {
		t.Errorf("after unmounting: generation %d, %v; it was %d", generation, err, r.Generation)
	}
	m.Unmount()
}
