package tape_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/mech/scsi"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
	"cairn/internal/testkit/scsitape"
	"cairn/ltfs"
)

// onDrive opens the volume in a SCSI drive.
func onDrive(ctx context.Context, target *scsitape.Drive) (*tape.Tape, error) {
	d, err := drive.OpenSCSI(ctx, scsi.Watch(target, "/dev/sg1"), "/dev/sg1", drive.SCSIOptions{Key: 1})
	if err != nil {
		return nil, err
	}
	t, err := tape.Open(ctx, d, "/dev/sg1")
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return t, nil
}

// putFile puts a file of one content under a name and commits it.
func putFile(ctx context.Context, t *tape.Tape, dir, name string) error {
	source := filepath.Join(dir, name)
	if err := os.WriteFile(source, bytes.Repeat([]byte(name), 3000), 0o600); err != nil {
		return err
	}
	if _, err := t.Put(ctx, source, "/"); err != nil {
		return errors.Join(err, t.Commit(ctx, "test", "", time.Unix(2, 0)))
	}
	return t.Commit(ctx, "test", "", time.Unix(2, 0))
}

// holds reports whether the volume holds these files with their contents.
func holds(ctx context.Context, t *tape.Tape, dir string, names ...string) error {
	to, err := os.MkdirTemp(dir, "out")
	if err != nil {
		return err
	}
	if _, err := t.Extract(ctx, to, tape.ExtractOptions{Index: t.Index()}); err != nil {
		return err
	}
	for _, name := range names {
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !bytes.Equal(got, bytes.Repeat([]byte(name), 3000)) {
			return fmt.Errorf("%s: %d bytes, %w", name, len(got), err)
		}
	}
	return nil
}

// volumeInDrive is a drive with a volume that holds one file, in generation 2.
func volumeInDrive(t *testing.T, dir string) *scsitape.Drive {
	t.Helper()
	target := scsitape.New()
	d, err := drive.OpenSCSI(t.Context(), scsi.Watch(target, "/dev/sg1"), "/dev/sg1", drive.SCSIOptions{Key: 1})
	if err != nil {
		t.Fatal(err)
	}
	v, err := tape.Format(t.Context(), d, "/dev/sg1", tape.FormatOptions{Name: "V", BlockSize: 4096, Creator: "test", Now: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(putFile(t.Context(), v, dir, "first"), v.Close()); err != nil {
		t.Fatal(err)
	}
	return target
}

// A volume lives on a SCSI drive as it does on a folder, also on one that knows
// neither attributes nor the long commands.
func TestVolumeOnSCSIDrive(t *testing.T) {
	dir := t.TempDir()
	target := volumeInDrive(t, dir)
	for _, old := range []bool{false, true} {
		target.Old = old
		v, err := onDrive(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("old-%v", old)
		if err := putFile(t.Context(), v, dir, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := errors.Join(holds(t.Context(), v, dir, "first", name), v.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever command goes wrong, and however: nothing that was committed is lost, a
// commit that returned success is on tape, and the tape can be used again.
func TestDriveErrorsAtEveryCommand(t *testing.T) {
	ways := map[string]scsitape.Answer{
		"hardware error":                    {Sense: 0x044400},
		"hardware error, but carried out":   {Sense: 0x044400, After: true},
		"medium error":                      {Sense: 0x030c00},
		"reset":                             {Sense: 0x062900},
		"deferred write error":              {Sense: 0x030c00, Deferred: true},
		"end of medium":                     {Sense: 0x0d0002, Flags: 0x40},
		"write protected":                   {Sense: 0x072700},
		"early warning as a unit attention": {Sense: 0x060002},
		"transport lost for good":           {Fail: cairn.KindUnavailable},
	}
	dir := t.TempDir()
	base := volumeInDrive(t, dir).Tape
	for way, answer := range ways {
		commands, failed := 0, 0
		for n := 0; n <= commands; n = nextCommand(n) { // nothing goes wrong at first
			synctest.Test(t, func(t *testing.T) {
				target := scsitape.New()
				target.Tape = base.Cut(base.Changes(), false)
				commands = max(commands, failAt(t, target, dir, n, answer, &failed))
				stillGood(t, target.Tape, dir, fmt.Sprintf("%s at command %d", way, n))
			})
		}
		t.Logf("%s: %d commands, %d attempts failed", way, commands, failed)
		if failed == 0 && way != "early warning as a unit attention" || commands < 50 {
			t.Errorf("%s at any of %d commands is no error", way, commands)
		}
	}
}

// nextCommand leaves most commands out in a default run; the step has no common
// divisor with what is done again and again.
func nextCommand(n int) int {
	if os.Getenv("CAIRN_SCALE") == "full" {
		return n + 1
	}
	return n + 11
}

// failAt puts a second file with the n-th command going wrong and returns how many
// commands there were; success has to be true.
func failAt(t *testing.T, target *scsitape.Drive, dir string, n int, answer scsitape.Answer, failed *int) int {
	t.Helper()
	seen := 0
	target.Inject = func([]byte) *scsitape.Answer {
		if seen++; seen == n || n > 0 && seen > n && answer.Fail != nil {
			return &answer
		}
		return nil
	}
	v, err := onDrive(t.Context(), target)
	if err == nil {
		err = putFile(t.Context(), v, dir, "second")
		if err == nil && v.Index().Generation != 3 {
			t.Errorf("command %d: success in generation %d", n, v.Index().Generation)
		}
		if closing := v.Close(); err == nil && closing == nil {
			target.Inject = nil
			again, err := onDrive(t.Context(), target)
			if err != nil {
				t.Fatalf("after success with command %d wrong: %v", n, err)
			}
			if err := errors.Join(holds(t.Context(), again, dir, "first", "second"), again.Close()); err != nil || len(again.Notes()) > 0 {
				t.Errorf("after success with command %d wrong: %v, %v", n, err, again.Notes())
			}
		} else {
			err = errors.Join(err, closing)
		}
	}
	if err != nil {
		*failed++
	}
	return seen
}

// stillGood checks a medium in a drive that works: what was committed is there, and
// more can be written.
func stillGood(t *testing.T, medium *faketape.Tape, dir, what string) {
	t.Helper()
	target := scsitape.New()
	target.Tape = medium
	v, err := onDrive(t.Context(), target)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if err := v.SetLock(t.Context(), ltfs.Unlocked, "test", time.Unix(3, 0)); err != nil && !errors.Is(err, cairn.KindDamaged) {
		t.Errorf("%s: unlocking: %v", what, err)
	}
	if _, err := v.Recover(t.Context(), false, "test", time.Unix(3, 0)); err != nil {
		t.Errorf("%s: recovery: %v", what, err)
	}
	if err := putFile(t.Context(), v, dir, "third"); err != nil {
		t.Errorf("%s: writing on: %v", what, err)
	}
	if err := errors.Join(holds(t.Context(), v, dir, "first", "third"), v.Close()); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// Locks of the index and of the medium keep writers out; a permanent one stays.
func TestLocks(t *testing.T) {
	target := volumeInDrive(t, t.TempDir())
	v, err := onDrive(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	lock := func(l ltfs.Lock, want error) {
		t.Helper()
		if err := v.SetLock(ctx, l, "test", time.Unix(5, 0)); !errors.Is(err, want) {
			t.Errorf("lock %v: %v, want %v", l, err, want)
		}
	}
	medium := func(want byte) {
		t.Helper()
		if m, err := target.Tape.Attribute(ctx, 0, ltfs.AttrLock); err != nil || !bytes.Equal(m, []byte{want}) {
			t.Errorf("the medium's lock is %v, %v, want %d", m, err, want)
		}
	}
	lock(ltfs.Locked, nil)
	medium(1)
	generation := v.Index().Generation
	lock(ltfs.Locked, nil)
	if v.Index().Generation != generation {
		t.Error("a lock that was there was written again")
	}
	if err := v.CheckWritable(ctx); !errors.Is(err, cairn.KindPermission) {
		t.Errorf("locked: %v", err)
	}
	lock(ltfs.Unlocked, nil)
	medium(0)
	if err := v.CheckWritable(ctx); err != nil {
		t.Errorf("unlocked: %v", err)
	}
	for value, writable := range map[byte]bool{128: true, 2: false, 4: false, 5: false, 6: false, 1: false} {
		if err := target.Tape.SetAttribute(ctx, 0, ltfs.AttrLock, 0, []byte{value}); err != nil {
			t.Fatal(err)
		}
		if err := v.CheckWritable(ctx); (err == nil) != writable {
			t.Errorf("the medium says %d: %v", value, err)
		}
	}
	lock(ltfs.Unlocked, nil)
	lock(ltfs.PermLocked, nil)
	medium(3)
	lock(ltfs.Unlocked, cairn.KindPermission)
	lock(ltfs.Locked, cairn.KindPermission)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err = onDrive(ctx, target); err != nil || v.Index().Lock != ltfs.PermLocked {
		t.Errorf("opened again: %v", err)
	}
}

// Wherever the medium ends, in a file, in the index of either partition, in a label:
// what was committed stays, success is true, and nobody is told otherwise.
func TestEndOfMediumEverywhere(t *testing.T) {
	dir := t.TempDir()
	base := volumeInDrive(t, dir).Tape
	full, fits := 0, 0
	for room := int64(21000); room < 60000; room += 1300 {
		for part := range 2 {
			target := scsitape.New()
			target.Tape = base.Cut(base.Changes(), false)
			target.Tape.Room[part] = room
			if part == 0 {
				target.Tape.Room[part] = room / 8
			}
			v, err := onDrive(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			err = putFile(t.Context(), v, dir, "second")
			switch {
			case err == nil:
				fits++
				if err := holds(t.Context(), v, dir, "first", "second"); err != nil || v.Index().Generation != 3 {
					t.Errorf("%d bytes in partition %d: success, but %v in generation %d", room, part, err, v.Index().Generation)
				}
			case errors.Is(err, cairn.KindSpace):
				full++
			default:
				t.Errorf("%d bytes in partition %d: %v", room, part, err)
			}
			_ = v.Close() // a full medium refuses its last flush, too
			target.Tape.Room = [2]int64{}
			stillGood(t, target.Tape, dir, fmt.Sprintf("%d bytes in partition %d", room, part))
		}
	}
	if full < 10 || fits < 10 {
		t.Errorf("%d were full, %d fitted: both are wanted", full, fits)
	}
}
