package guest_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
)

// The power cut is a test of two boots. In the first, TestPowerWrite writes and
// says what was promised, until the machine dies. In the second, TestPowerCheck is
// told the last of what was said and looks whether it holds.
//
// Write number n goes to block blockOf(n) and fills it with its own number, so
// every block tells by itself which write it holds.

const (
	powerBlocks  = 2048
	flushEvery   = 8
	captureEvery = 64
)

func blockOf(n uint64) int64 { return rand.New(rand.NewPCG(7, n)).Int64N(powerBlocks) }

func numbered(n uint64) []byte {
	var word [8]byte
	binary.BigEndian.PutUint64(word[:], n)
	return bytes.Repeat(word[:], cairn.BlockSize/len(word))
}

// model tells per block which write it holds after the writes up to n.
func model(n uint64) []uint64 {
	held := make([]uint64, powerBlocks)
	for i := uint64(1); i <= n; i++ {
		held[blockOf(i)] = i
	}
	return held
}

// holds reads which write a block holds; false when it is torn or a stranger's.
func holds(content []byte, block int64) (uint64, bool) {
	b := content[block*cairn.BlockSize : (block+1)*cairn.BlockSize]
	n := binary.BigEndian.Uint64(b)
	return n, bytes.Equal(b, numbered(n)) && (n == 0 || blockOf(n) == block)
}

// older lists the blocks of content that are torn, foreign, or hold less than want;
// exactly asks for no more than want, too.
func older(content []byte, want []uint64, exactly bool) []int64 {
	var bad []int64
	for b := range want {
		n, ok := holds(content, int64(b))
		if !ok || n < want[b] || exactly && n != want[b] {
			bad = append(bad, int64(b))
		}
	}
	return bad
}

// The judge of power cuts sees a lost, a torn and a misplaced write.
func TestPowerJudge(t *testing.T) {
	const last = 5000
	content, want := make([]byte, powerBlocks*cairn.BlockSize), model(last)
	for n := uint64(1); n <= last; n++ {
		copy(content[blockOf(n)*cairn.BlockSize:], numbered(n))
	}
	if bad := older(content, want, true); len(bad) > 0 {
		t.Fatalf("all is there, and %v are bad", bad)
	}
	block := content[blockOf(last)*cairn.BlockSize:][:cairn.BlockSize]
	for name, spoil := range map[string]func(){
		"lost":      func() { clear(block) },
		"torn":      func() { clear(block[:cairn.BlockSize/2]) },
		"misplaced": func() { copy(block, numbered(last-1)) },
	} {
		spoil()
		if bad := older(content, want, false); len(bad) != 1 || bad[0] != blockOf(last) {
			t.Errorf("%s write: bad are %v", name, bad)
		}
		copy(block, numbered(last))
	}
}

func number(t *testing.T, key string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(os.Getenv(key), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPowerWrite(t *testing.T) {
	inside(t)
	p := place(t, disk(t), volume.Fault(number(t, "CAIRN_FAULTS")))
	if err := p.Create(t.Context(), "db", powerBlocks*cairn.BlockSize, "test"); err != nil {
		t.Fatal(err)
	}
	v, err := p.Open(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	d := v.Device()
	for n := uint64(1); ; n++ {
		if err := d.WriteAt(t.Context(), numbered(n), blockOf(n)*cairn.BlockSize, 0); err != nil {
			t.Fatal(err)
		}
		if n%flushEvery == 0 {
			if err := d.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			fmt.Println("FLUSHED", n)
		}
		if n%captureEvery == 0 {
			if _, err := v.Snapshot(t.Context(), fmt.Sprint("@", n)); err != nil {
				t.Fatal(err)
			}
			fmt.Println("CAPTURED", n)
		}
	}
}

func TestPowerCheck(t *testing.T) {
	inside(t)
	flushed, captured := number(t, "CAIRN_FLUSHED"), number(t, "CAIRN_CAPTURED")
	run(t, "mkdir -p /disk && mount /dev/vdb /disk")
	undo(t, "umount /disk")
	p := place(t, "/disk", 0)
	v, err := p.Open(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	head := contentOf(t, v, cairn.VersionID{})
	if bad := older(head, model(flushed), false); len(bad) > 0 {
		t.Errorf("flushed up to %d: %d blocks are older, the first is %d", flushed, len(bad), bad[0])
	}
	found := 0
	for _, version := range v.Listing("db", cairn.Want{Versions: true}).Versions {
		n, err := strconv.ParseUint(version.Name[1:], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		snapshot := contentOf(t, v, version.VersionID)
		if bad := older(snapshot, model(n), true); len(bad) > 0 {
			t.Errorf("%s: %d blocks are not as they were, the first is %d", version.Name, len(bad), bad[0])
		}
		set, _ := changed(t, v, version.VersionID, cairn.VersionID{})
		if missed := uncovered(snapshot, head, set); len(missed) > 0 {
			t.Errorf("%s to the head: %d written blocks are not in the change set, the first is %d", version.Name, len(missed), missed[0])
		}
		if n <= captured {
			found++
		}
	}
	if want := int(captured / captureEvery); found != want {
		t.Errorf("%d of the %d snapshots that were reported are there", found, want)
	}
}
