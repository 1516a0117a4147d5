package volume_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/testkit/fakedisk"
)

// Writers each write a rising number to the first and then to the second of their
// two blocks. In a snapshot of one instant the second is never ahead and never
// more than one behind; and a snapshot reads the same ever after.
func TestSnapshotsUnderConcurrentWritesAreOfOneInstant(t *testing.T) {
	const writers, captures = 6, 12
	disk := fakedisk.New()
	if err := volume.Create(ctx, disk, volume.CreateOptions{Size: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	v := open(t, disk, volume.Options{SegmentBytes: 128 << 10, ActiveBytes: 1})
	defer func() { closeVolume(t, v) }()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range int64(writers) {
		wg.Go(func() { writePairs(t, v, w*8192, stop) })
	}
	var first []cairn.Version
	var content [][]byte
	for i := range captures {
		s := snap(t, v, fmt.Sprintf("@%d", i))
		p := readAll(t, v, s.VersionID)
		checkPairs(t, p, writers)
		first, content = append(first, s), append(content, p)
		if i%4 == 3 { // destroy one in the middle while all goes on
			if errs, err := v.Destroy(ctx, []cairn.VersionID{first[i-1].VersionID}); err != nil || errs[0] != nil {
				t.Error(err, errs)
			}
			content[i-1] = nil
		}
		for j, want := range content {
			if want != nil && !bytes.Equal(readAll(t, v, first[j].VersionID), want) {
				t.Errorf("snapshot %d changed after capture %d", j, i)
			}
		}
	}
	close(stop)
	wg.Wait()
}

func writePairs(t *testing.T, v *volume.Volume, off int64, stop chan struct{}) {
	d := v.Device()
	defer func() { _ = d.Close() }()
	p := make([]byte, 4096)
	for n := uint64(1); n < 4000; n++ {
		select {
		case <-stop:
			return
		default:
		}
		for i := range p[:4096/8] {
			binary.LittleEndian.PutUint64(p[i/8*8:], n)
		}
		for half := range int64(2) {
			if err := d.WriteAt(ctx, p, off+half*4096, 0); err != nil {
				t.Error(err)
				return
			}
		}
	}
}

func checkPairs(t *testing.T, p []byte, writers int) {
	t.Helper()
	for w := range writers {
		a := binary.LittleEndian.Uint64(p[w*8192:])
		b := binary.LittleEndian.Uint64(p[w*8192+4096:])
		if a != b && a != b+1 {
			t.Errorf("writer %d: first block has %d, second %d", w, a, b)
		}
	}
}
