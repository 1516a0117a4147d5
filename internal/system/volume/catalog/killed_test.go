package catalog_test

import (
	"errors"
	"testing"

	"cairn"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/testkit/fakedisk"
)

// A process dies between the write of a record and its sync; the next one reads the
// record from the cache. Before anything stands on it, it is made durable: left
// out, a power cut leaves a later record without it.
func TestARecordLeftInTheCacheIsMadeDurable(t *testing.T) {
	for _, unsynced := range []bool{false, true} {
		corrupt := 0
		disk := fakedisk.New()
		l, err := catalog.Create(disk, catalog.State{Store: catalog.Store{ID: 7, Format: 1}, Head: catalog.Head{NextID: 1}})
		if err != nil {
			t.Fatal(err)
		}
		l.Unsynced = true
		put(t, l, "@a", 1)
		if l, err = catalog.Open(disk); err != nil || names(l) != "@a" {
			t.Fatal(err)
		}
		opened := disk.Len()
		l.Unsynced = unsynced
		put(t, l, "@b", 2)
		r := disk.Replay()
		r.Seek(opened)
		for more := true; more; more = r.Next() {
			for what := range fakedisk.Subset(12) {
				if _, err := catalog.Open(r.Crash(what)); errors.Is(err, cairn.KindCorrupt) {
					corrupt++
				} else if err != nil {
					t.Fatal(err)
				}
			}
		}
		if (corrupt > 0) != unsynced {
			t.Errorf("unsynced %v: %d cuts left a log with a hole", unsynced, corrupt)
		}
	}
}
