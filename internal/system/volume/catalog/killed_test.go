package catalog_test

import (
	"testing"

	"cairn/internal/system/volume/catalog"
	"cairn/internal/testkit/fakedisk"
)

// A process dies between the write of a record and its sync; the next one reads the
// record from the cache. Before a later record is written, it is made durable: else
// a power cut could leave the later one without it.
func TestARecordLeftInTheCacheIsMadeDurable(t *testing.T) {
	for _, unsynced := range []bool{false, true} {
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
		opened, end := disk.Len(), l.Length()
		l.Unsynced = unsynced
		put(t, l, "@b", 2)
		durable := false
		for _, e := range disk.Log()[opened:] {
			if e.Op == fakedisk.OpWrite && e.Off == end {
				break // the later record
			}
			durable = durable || e.Op == fakedisk.OpSync && e.Name == catalog.Name
		}
		if durable == unsynced {
			t.Errorf("without syncs %v: durable before the next record: %v", unsynced, durable)
		}
	}
}
