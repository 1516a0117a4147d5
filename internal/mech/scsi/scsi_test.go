package scsi_test

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn/internal/mech/scsi"
)

// built are the commands of testdata/commands.txt as the package builds them.
var built = map[string][]byte{
	"test unit ready": scsi.TestUnitReady(), "request sense, 96": scsi.RequestSense(96),
	"format medium, one partition": scsi.FormatMedium(0), "format medium, partition page": scsi.FormatMedium(1), "format medium, destructive": scsi.FormatMedium(2),
	"read block limits": scsi.ReadBlockLimits(), "read 524288, variable, sense for length": scsi.Read(524288), "write 175712, variable": scsi.Write(175712),
	"set capacity, whole": scsi.SetCapacity(0xffff), "write 1 filemark": scsi.WriteFilemarks(1, false), "write 1 filemark, immediate": scsi.WriteFilemarks(1, true),
	"flush": scsi.WriteFilemarks(0, false), "space 2 filemarks": scsi.SpaceFilemarks6(2), "space -1 filemark": scsi.SpaceFilemarks6(-1),
	"inquiry, 96": scsi.Inquiry(0, 96), "inquiry, serial number": scsi.Inquiry(0x80, 252),
	"reserve": scsi.Reserve(), "release": scsi.Release(), "erase, long": scsi.Erase(true), "load": scsi.Load(),
	"prevent removal": scsi.PreventRemoval(true), "allow removal": scsi.PreventRemoval(false), "locate(10) partition 1 block 22": scsi.Locate10(1, 22),
	"read position, short": scsi.ReadPosition(scsi.PositionShort), "read position, long": scsi.ReadPosition(scsi.PositionLong),
	"report density of the medium, 512": scsi.ReportDensity(true, 512),
	"log sense, tape capacity":          scsi.LogSense(0x31, 8192), "log sense, tape alert": scsi.LogSense(0x2e, 8192), "log sense, volume statistics": scsi.LogSense(0x17, 8192),
	"mode select, 28 bytes": scsi.ModeSelect(28), "mode sense, medium partition": scsi.ModeSense(0x11, 0, 252),
	"mode sense, device configuration ext.": scsi.ModeSense(0x10, 1, 252), "persistent in, reservation": scsi.PersistentIn(256),
	"persistent out, register and ignore": scsi.PersistentOut(scsi.PersistentRegister), "persistent out, reserve exclusive": scsi.PersistentOut(scsi.PersistentReserve),
	"persistent out, release": scsi.PersistentOut(scsi.PersistentRelease), "persistent out, preempt and abort": scsi.PersistentOut(scsi.PersistentPreemptAbort),
	"allow overwrite at 0:5": scsi.AllowOverwrite(0, 5), "read attribute 080C of partition 1": scsi.ReadAttribute(1, 0x80c, 8192),
	"write attributes of partition 0, 10": scsi.WriteAttribute(0, 10), "space(16) -3 filemarks": scsi.SpaceFilemarks16(-3),
	"locate(16) partition 1 block 2^32+5": scsi.Locate16(1, 1<<32+5), "locate(16) partition 0, largest block": scsi.Locate16(0, math.MaxUint64),
	"report supported opcodes, with timeouts": scsi.ReportOpcodes(16 << 10),
}

// table reads the lines of a file of testdata, in columns.
func table(t *testing.T, name string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		row := strings.Split(line, "|")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		rows = append(rows, row)
	}
	return rows
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every command has the bytes of the standards' tables and a limit longer than the
// drives'.
func TestCommandBytes(t *testing.T) {
	rows := table(t, "commands.txt")
	for _, row := range rows {
		if want, got := unhex(t, row[1]), built[row[0]]; !bytes.Equal(got, want) {
			t.Errorf("%s: built % X, the table has % X", row[0], got, want)
		}
		if want, err := strconv.Atoi(row[2]); err != nil || scsi.Limit(built[row[0]][0]) != time.Duration(want)*time.Second {
			t.Errorf("%s: limit %v, the table has %s s", row[0], scsi.Limit(built[row[0]][0]), row[2])
		}
	}
	if len(rows) != len(built) {
		t.Errorf("%d rows, %d commands", len(rows), len(built))
	}
}

// Sense in both forms, whole and cut off.
func TestSense(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		ok          bool
		want        scsi.Sense
	}{
		{"filemark after 0 of 4096 bytes", "F0 00 80 00 00 10 00 0A 00 00 00 00 00 01 00 00 00 00", true,
			scsi.Sense{ASCQ: 1, Filemark: true, Missing: 4096, Known: true}},
		{"short by 16", "F0 00 20 00 00 00 10 0A 00 00 00 00 00 00", true, scsi.Sense{WrongLength: true, Missing: 16, Known: true}},
		{"longer by 24", "F0 00 20 FF FF FF E8 0A 00 00 00 00 00 00", true, scsi.Sense{WrongLength: true, Missing: -24, Known: true}},
		{"early warning", "70 00 40 00 00 00 00 0A 00 00 00 00 00 02", true, scsi.Sense{ASCQ: 2, EndOfMedium: true}},
		{"deferred write error", "71 00 03 00 00 00 00 0A 00 00 00 00 0C 00", true, scsi.Sense{Key: 3, ASC: 0x0c, Deferred: true}},
		{"without additional codes", "70 00 04 00 00 00 00 00", true, scsi.Sense{Key: 4}},
		{"descriptors: information and stream flags", "72 00 00 01 00 00 00 10 00 0A 80 00 00 00 00 00 00 00 10 00 04 02 00 80", true,
			scsi.Sense{ASCQ: 1, Filemark: true, Missing: 4096, Known: true}},
		{"deferred descriptors", "73 04 10 01 00 00 00 00", true, scsi.Sense{Key: 4, ASC: 0x10, ASCQ: 1, Deferred: true}},
		{"a descriptor cut off", "72 03 11 00 00 00 00 20 00 0A 80", true, scsi.Sense{Key: 3, ASC: 0x11}},
		{"cut off", "70 00 03", false, scsi.Sense{}}, {"nothing", "", false, scsi.Sense{}}, {"vendor's", "7F 00 00 00 00 00 00 00", false, scsi.Sense{}},
	} {
		if got, ok := scsi.ParseSense(unhex(t, c.bytes)); ok != c.ok || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, ok, c.want)
		}
	}
}

// No bytes make the readers of answers panic.
func FuzzAnswers(f *testing.F) {
	f.Add(unhexSeed("F0008000001000 0A00000000000100000000"))
	f.Add(unhexSeed("72000001000000 10000A80000000000000001000 04020080"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		scsi.ParseSense(b)
		scsi.ParseInquiry(b)
		scsi.ParseSerial(b)
		scsi.ParseBlockLimits(b)
		scsi.ParseMode(b)
		scsi.ParseReadAttribute(b)
		scsi.ParseReservation(b)
		scsi.ParseDensity(b)
		scsi.ParseTimeouts(b)
		scsi.ParsePartitions(b)
		for _, form := range []byte{scsi.PositionShort, scsi.PositionLong} {
			scsi.ParsePosition(form, b)
		}
		if len(b) > 0 {
			scsi.ParseLog(b[0]&0x3f, b)
		}
	})
}

func unhexSeed(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// Answers of the tables are read field by field.
func TestAnswers(t *testing.T) {
	if p, ok := scsi.ParsePosition(scsi.PositionLong, unhex(t, "40 00 00 00 00 00 00 01 00 00 00 01 00 00 00 05 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 00")); !ok ||
		p != (scsi.Place{Partition: 1, Block: 1<<32 + 5, Known: true, EarlyWarning: true}) {
		t.Errorf("long position: %+v", p)
	}
	if p, ok := scsi.ParsePosition(scsi.PositionShort, unhex(t, "81 01 00 00 00 00 00 16 00 00 00 16 00 00 00 00 00 00 00 00")); !ok ||
		p != (scsi.Place{Partition: 1, Block: 22, Known: true, Beginning: true, Programmable: true}) {
		t.Errorf("short position: %+v", p)
	}
	if p, ok := scsi.ParsePosition(scsi.PositionShort, unhex(t, "04 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00")); !ok || p.Known {
		t.Errorf("unknown position: %+v", p)
	}
	if n := scsi.ParseBlockLimits(unhex(t, "04 10 00 00 02 00")); n != 1<<20 {
		t.Errorf("block limit %d", n)
	}
	if m, ok := scsi.ParseMode(unhex(t, "00 1A 00 90 00 00 00 08 58 00 00 00 00 00 00 00 11 0A 01 01 3C 03 09 00 00 26 FF FF")); !ok || !m.Protected || !m.Buffered || m.Density != 0x58 ||
		!bytes.Equal(m.Page, unhex(t, "11 0A 01 01 3C 03 09 00 00 26 FF FF")) {
		t.Errorf("mode %+v", m)
	}
	log, ok := scsi.ParseLog(0x31, unhex(t, "31 00 00 10 00 01 03 04 00 00 8E 94 00 02 03 04 00 15 5A 00"))
	if !ok || !bytes.Equal(log[1], unhex(t, "00 00 8E 94")) || !bytes.Equal(log[2], unhex(t, "00 15 5A 00")) {
		t.Errorf("log %v", log)
	}
	if rooms := scsi.ParsePartitions(unhex(t, "07 00 00 00 00 00 93 F8 07 00 00 01 00 16 1A 40")); rooms[0] != 37880 || rooms[1] != 1448512 {
		t.Errorf("partitions %v", rooms)
	}
	limits := scsi.ParseTimeouts(unhex(t, "00 00 00 28 0A 00 00 00 00 02 00 06 00 0A 00 00 00 00 00 00 00 00 05 DC 12 00 00 00 00 02 00 06 00 0A 00 00 00 00 00 00 00 00 00 3C"))
	if limits[0x0a] != 1500*time.Second || limits[0x12] != time.Minute {
		t.Errorf("timeouts %v", limits)
	}
	attributes := scsi.ParseReadAttribute(unhex(t, "00 00 00 10 00 09 80 00 04 00 00 00 02 16 23 00 00 02 01"))
	if len(attributes) != 1 || attributes[0].ID != 9 || !bytes.Equal(attributes[0].Value, []byte{0, 0, 0, 2}) {
		t.Errorf("attributes %+v", attributes)
	}
	if r := scsi.ParseReservation(unhex(t, "00 00 00 02 00 00 00 10 11 22 33 44 55 66 77 88 00 00 00 00 00 03 00 00")); !r.Held || r.Key != 0x1122334455667788 {
		t.Errorf("reservation %+v", r)
	}
}

// Tape drives are found in sysfs, others are left out.
func TestTapeNodes(t *testing.T) {
	sysfs := t.TempDir()
	for node, kind := range map[string]string{"sg0": "0", "sg10": "1", "sg2": "1"} {
		dir := filepath.Join(sysfs, "class", "scsi_generic", node, "device")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"type": kind, "vendor": "IBM     ", "model": "ULT3580-TD9     ", "rev": "R3G3"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	nodes, err := scsi.TapeNodes(sysfs)
	if err != nil || len(nodes) != 2 || nodes[0].Path != "/dev/sg2" || nodes[1].Path != "/dev/sg10" || nodes[0].Product != "ULT3580-TD9" || nodes[0].Vendor != "IBM" {
		t.Errorf("%+v, %v", nodes, err)
	}
	if nodes, err := scsi.TapeNodes(filepath.Join(sysfs, "none")); err != nil || len(nodes) != 0 {
		t.Errorf("without generic nodes: %v, %v", nodes, err)
	}
}
