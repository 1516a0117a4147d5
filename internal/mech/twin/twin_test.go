package twin_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"cairn/internal/mech/twin"
	"cairn/internal/testkit/fakedisk"
)

func TestEveryPageStandsTwice(t *testing.T) {
	disk := fakedisk.New()
	f, err := disk.Create("log")
	if err != nil {
		t.Fatal(err)
	}
	l := twin.New(f, 0)
	want := bytes.Repeat([]byte("seven b"), 3000)
	for off := 0; off < len(want); off += 700 {
		if err := l.WriteAt(want[off:min(off+700, len(want))], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	size, _ := f.Size()
	for block := int64(0); block*twin.Page < size; block++ {
		old := make([]byte, twin.Page)
		_, _ = f.ReadAt(old, block*twin.Page)
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, twin.Page), block*twin.Page); err != nil {
			t.Fatal(err)
		}
		m, err := twin.Read(f)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for p := range m.From(0) {
			found = found || bytes.Equal(p[:len(want)], want)
		}
		if inside := block/2*twin.Page < int64(len(want)); !found || m.Worn(int64(len(want))) != inside {
			t.Errorf("block %d: found %v, worn %v", block, found, m.Worn(int64(len(want))))
		}
		_, _ = f.WriteAt(old, block*twin.Page)
	}
}

// A log that could not grow has not changed.
func TestGrowWithoutRoom(t *testing.T) {
	disk := fakedisk.New()
	f, err := disk.Create("log")
	if err != nil {
		t.Fatal(err)
	}
	l := twin.New(f, 0)
	if err := l.WriteAt([]byte("record"), 0); err != nil {
		t.Fatal(err)
	}
	free, total, _ := disk.Space()
	disk.SetCapacity(total - free)
	before, entries := disk.Len(), 0
	for off := int64(6); ; off += 6 {
		if err := l.WriteAt([]byte("record"), off); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		before, entries = disk.Len(), entries+1
	}
	if disk.Len() != before || entries < 1000 {
		t.Errorf("a growth that failed wrote; %d records fitted", entries)
	}
}

// A new length is durable before it is used: else a torn write could fill the last
// empty page, and what never was cut off would look as if it had been.
func TestALengthIsDurableBeforeItIsUsed(t *testing.T) {
	for _, leftOut := range []bool{false, true} {
		if looks := growAndCrash(t, leftOut); (looks > 0) != leftOut {
			t.Errorf("sync left out %v: %d crashed logs look cut off", leftOut, looks)
		}
	}
}

// growAndCrash fills a log over its first length, syncing each record, and counts
// the crashed disks on which it looks cut off.
func growAndCrash(t *testing.T, unsynced bool) (looks int) {
	t.Helper()
	disk := fakedisk.New()
	f, err := disk.Create("log")
	if err == nil {
		err = disk.SyncDir(".")
	}
	if err != nil {
		t.Fatal(err)
	}
	growing := false
	disk.Lie(func() bool { return growing && unsynced })
	l := twin.New(f, 0)
	record := bytes.Repeat([]byte("r"), 512)
	for off := int64(0); off < 10*twin.Page; off += 512 {
		growing = true
		if err := l.WriteAt(record, off); err != nil {
			t.Fatal(err)
		}
		if growing = false; f.Sync() != nil {
			t.Fatal("no sync")
		}
	}
	r := disk.Replay()
	for r.Next() {
		for what := range fakedisk.Subset(40) {
			if looksCut(t, r.Crash(what), record) {
				looks++
			}
		}
	}
	return looks
}

// looksCut reads the log as far as its records are whole.
func looksCut(t *testing.T, disk *fakedisk.Disk, record []byte) bool {
	t.Helper()
	f, err := disk.Open("log", false)
	if err != nil {
		return false // not made yet
	}
	m, err := twin.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(0)
	for ; end < m.Len(); end += 512 {
		p := m.Copies(end)
		if !bytes.Equal(p[0][:512], record) && !bytes.Equal(p[1][:512], record) {
			break
		}
	}
	return end > 0 && m.Cut(end)
}
