package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/internal/mech/scsi"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/scsitape"
	"cairn/ltfs"
)

// What the list tells of a real drive comes from the medium's attributes and the
// drive's pages; the medium does not move.
func TestListedDrive(t *testing.T) {
	target := scsitape.New()
	target.Tape.Room = [2]int64{2e9, 20e9}
	target.Alerts = map[uint16]byte{20: 1}
	open := func(look bool) *drive.SCSI {
		d, err := drive.OpenSCSI(t.Context(), scsi.Watch(target, "/dev/sg1"), "/dev/sg1", drive.SCSIOptions{Look: look, ReadOnly: look})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	look := func() tapeDrive {
		d := open(true)
		line := tapeDrive{Drive: "/dev/sg1", Alerts: []int{}}
		moves := target.Seen(0x92) + target.Seen(0x08) + target.Seen(0x91)
		if err := lookInto(t.Context(), &line, d); err != nil {
			t.Fatal(err)
		}
		if now := target.Seen(0x92) + target.Seen(0x08) + target.Seen(0x91); now != moves {
			t.Errorf("the medium was moved %d times", now-moves)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		return line
	}
	if line := look(); line.State != "foreign" || line.UUID != "" {
		t.Errorf("a blank medium: %+v", line)
	}
	v, err := tape.Format(t.Context(), open(false), "/dev/sg1", tape.FormatOptions{Name: "Records", Barcode: "REC001", BlockSize: 4096, Creator: "test", Now: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.SetLock(t.Context(), ltfs.Locked, "test", time.Unix(2, 0)); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	line := look()
	if line.State != "tape" || line.Barcode != "REC001" || line.Volume != "Records" || line.Generation != 2 || line.Lock != "locked" || line.UUID != v.Label().VolumeUUID ||
		line.Product != "CAIRN TEST TAPE 0001" || line.Serial != "CAIRNTEST1" || !slices.Equal(line.Alerts, []int{20}) || line.Total != 20e9 || !strings.Contains(line.Medium, "Ultrium") {
		t.Errorf("%+v", line)
	}
	var out, notes bytes.Buffer
	p := &program{out: &out, errOut: &notes}
	if err := p.printTapeDrives([]tapeDrive{line}); err != nil || !strings.Contains(out.String(), "REC001") || !strings.Contains(notes.String(), "TapeAlert 20: the drive wants to be cleaned now") {
		t.Errorf("%v\n%s\n%s", err, &out, &notes)
	}
}

// A drive that the kernel lists and that cannot be opened is in the list, with the
// reason.
func TestListedDriveThatIsGone(t *testing.T) {
	sysfs := t.TempDir()
	dir := filepath.Join(sysfs, "class/scsi_generic/sg4095/device")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"type": "1", "vendor": "IBM", "model": "ULT3580-TD9", "rev": "R3G3"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &program{configPath: filepath.Join(t.TempDir(), "cairn.yml")}
	if err := os.WriteFile(p.configPath, []byte("tapes:\n  vault: {drive: /nowhere/T}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := p.tapeDrives(t.Context(), sysfs, nil)
	if err != nil || len(list) != 2 || list[0].Name != "vault" || list[1].Drive != "/dev/sg4095" || list[1].Product != "IBM ULT3580-TD9 R3G3" {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, d := range list {
		if d.State != "unknown" || d.Problem == "" {
			t.Errorf("%+v", d)
		}
	}
}
