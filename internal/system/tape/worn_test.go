package tape_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"cairn"
	"cairn/internal/mech/scsi"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/internal/testkit/scsitape"
	"cairn/ltfs"
)

// wearOut lets a partition, or both, refuse all writing from now on.
func wearOut(d *faketape.Tape, parts ...int) {
	d.Fail = func(call string) error {
		at, _ := d.Position(context.Background())
		for _, p := range parts {
			if at.Partition == p && (call == "write" || call == "filemark") {
				return &cairn.Error{Op: "write tape record", Kind: cairn.KindIO, Err: drive.ErrUnwritable}
			}
		}
		return nil
	}
}

func mediumLock(t *testing.T, d *faketape.Tape) byte {
	t.Helper()
	value, err := d.Attribute(t.Context(), 0, ltfs.AttrLock)
	if err != nil || len(value) != 1 {
		t.Fatalf("the medium's lock is %v, %v", value, err)
	}
	return value[0]
}

// A medium that cannot be written any more in a partition is left with the newest
// generation in the other one and with the mark that other software heeds; what was
// committed and what had reached the tape is read, nothing is written again, and
// everybody is told.
func TestWornMediumUnderAMount(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts []int
		lock  byte
		saved bool // what was on tape is in the last generation
	}{{"data partition", []int{1}, 4, true}, {"index partition", []int{0}, 5, true}, {"both", []int{0, 1}, 6, false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := blank(t)
				f := mount(t, d, tape.FSOptions{})
				write(t, f.Root(), "kept", []byte("kept"))
				if err := f.Sync(t.Context(), syncpolicy.Manual, true); err != nil {
					t.Fatal(err)
				}
				// It reaches the tape as data, and no index names it yet.
				reached := bytes.Repeat([]byte("r"), 3*4096)
				write(t, f.Root(), "reached", reached)
				synctest.Wait()
				wearOut(d, c.parts...)
				write(t, f.Root(), "late", bytes.Repeat([]byte("l"), 2*4096))
				err := f.Sync(t.Context(), syncpolicy.Manual, true)
				if !errors.Is(err, cairn.KindDamaged) || !errors.Is(err, drive.ErrUnwritable) {
					t.Errorf("sync: %v", err)
				}
				if s := f.Status(); s.Broken == nil || s.Failures == 0 || c.lock != 5 && s.Risk.Bytes == 0 {
					t.Errorf("status: %+v", s)
				}
				if _, err := f.Root().Create("more"); !errors.Is(err, cairn.KindDamaged) {
					t.Errorf("a new file: %v", err)
				}
				if got := content(t, child(t, f.Root(), "late")); len(got) != 2*4096 {
					t.Errorf("late reads %d bytes while it is mounted", len(got))
				}
				if err := f.Close(t.Context()); !errors.Is(err, cairn.KindDamaged) {
					t.Errorf("unmounting: %v", err)
				}
				if got := mediumLock(t, d); got != c.lock {
					t.Errorf("the medium's lock is %d, want %d", got, c.lock)
				}
				d.Fail = nil
				before := d.Changes()
				again := mount(t, d, tape.FSOptions{})
				if got := content(t, child(t, again.Root(), "kept")); string(got) != "kept" {
					t.Errorf("kept reads %q", got)
				}
				if n, err := again.Root().Lookup("reached"); c.saved && (err != nil || !bytes.Equal(content(t, n), reached)) {
					t.Errorf("what had reached the tape: %v", err)
				}
				if _, err := again.Root().Create("more"); !errors.Is(err, cairn.KindPermission) {
					t.Errorf("mounted anew it takes a file: %v", err)
				}
				if err := again.Tape().CheckWritable(t.Context()); !errors.Is(err, cairn.KindPermission) {
					t.Errorf("mounted anew: %v", err)
				}
				unmount(t, again)
				if d.Changes() != before {
					t.Errorf("%d changes after it was known to be worn", d.Changes()-before)
				}
			})
		})
	}
}

// Without a mount it is the same: files are put until the drive says, in the words of
// facts about drives (sense 03/0C/00 and 03/03/02), that the medium is worn.
func TestWornMediumUnderPut(t *testing.T) {
	for _, sense := range []uint32{0x030c00, 0x030302} {
		dir := t.TempDir()
		target := volumeInDrive(t, dir)
		v, err := onDrive(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		target.Inject = func(command []byte) *scsitape.Answer {
			at, _ := target.Tape.Position(context.Background())
			if (command[0] == 0x0a || command[0] == 0x10) && at.Partition == 1 {
				return &scsitape.Answer{Sense: sense}
			}
			return nil
		}
		if err := putFile(t.Context(), v, dir, "second"); !errors.Is(err, drive.ErrUnwritable) || !errors.Is(err, cairn.KindDamaged) {
			t.Errorf("sense %06x: %v", sense, err)
		}
		_ = v.Close() // the worn medium may refuse its last flush, too
		target.Inject = nil
		if got := mediumLock(t, target.Tape); got != 4 {
			t.Errorf("sense %06x: the medium's lock is %d", sense, got)
		}
		d, err := drive.OpenSCSI(t.Context(), scsi.Watch(target, "/dev/sg1"), "/dev/sg1", drive.SCSIOptions{Key: 1})
		if err != nil {
			t.Fatal(err)
		}
		again, err := tape.Open(t.Context(), d, "/dev/sg1")
		if err != nil {
			t.Fatal(err)
		}
		source := filepath.Join(dir, "third")
		if err := os.WriteFile(source, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := again.Put(t.Context(), source, "/"); !errors.Is(err, cairn.KindPermission) {
			t.Errorf("sense %06x: put again: %v", sense, err)
		}
		if err := errors.Join(holds(t.Context(), again, dir, "first"), again.Close()); err != nil {
			t.Errorf("sense %06x: %v", sense, err)
		}
	}
}

// A medium whose tab is set, and a volume that is locked, are mounted read-only and
// say why: nobody's writes are taken and then refused.
func TestReadOnlyMediumIsMountedReadOnly(t *testing.T) {
	for want, set := range map[string]func(*faketape.Tape) error{
		"":                              func(*faketape.Tape) error { return nil },
		"its medium is write protected": func(d *faketape.Tape) error { d.Tab = true; return nil },
		"it is locked":                  func(d *faketape.Tape) error { return d.SetAttribute(t.Context(), 0, ltfs.AttrLock, 0, []byte{1}) },
		"its medium had a write error":  func(d *faketape.Tape) error { return d.SetAttribute(t.Context(), 0, ltfs.AttrLock, 0, []byte{2}) },
	} {
		d := blank(t)
		if err := set(d); err != nil {
			t.Fatal(err)
		}
		before := d.Changes()
		f := mount(t, d, tape.FSOptions{})
		if f.ReadOnlyWhy() != want || f.Status().ReadOnly != (want != "") {
			t.Errorf("%q, want %q; read-only %v", f.ReadOnlyWhy(), want, f.Status().ReadOnly)
		}
		if _, err := f.Root().Create("x"); (err != nil) != (want != "") {
			t.Errorf("%q: a new file: %v", want, err)
		}
		unmount(t, f)
		if want != "" && d.Changes() != before {
			t.Errorf("%q: it was written to", want)
		}
	}
	target := volumeInDrive(t, t.TempDir())
	target.Protected = true
	v, err := onDrive(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tape.NewFS(t.Context(), v, tape.FSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if f.ReadOnlyWhy() != "its medium is write protected" {
		t.Errorf("a SCSI drive: %q", f.ReadOnlyWhy())
	}
	unmount(t, f)
}
