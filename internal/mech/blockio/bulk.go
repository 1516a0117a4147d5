package blockio

import (
	"errors"
	"os"
	"syscall"

	"cairn"
	"cairn/internal/mech/kernel"
)

// BulkBytes is from which length on a run goes past the page cache: below it the
// latency of each request outweighs what the copy costs.
const BulkBytes = 256 << 10

// Bulk reads and writes long runs of a file past the page cache (O_DIRECT), where
// the file and its file system can: a tenth of the CPU time of the same through a
// cold cache, and nothing that others work with is pushed out of it. It is
// coherent with the file's own calls, and its writes are made durable by the file's
// own Sync. Runs that are short or not in whole blocks go through the cache.
type Bulk struct {
	f      File
	direct *os.File // nil: everything through the cache
}

// OpenBulk is Bulk of a file that OS or OpenOS opened; for any other, and where
// there is no O_DIRECT, all goes through the cache.
func OpenBulk(f File) *Bulk {
	b := &Bulk{f: f}
	if of, ok := f.(osFile); ok {
		if direct, err := kernel.OpenDirect(of.f); err == nil {
			b.direct = direct
		}
	}
	return b
}

// Direct reports whether long runs go past the page cache.
func (b *Bulk) Direct() bool { return b.direct != nil }

func (b *Bulk) fits(n int, off int64) bool {
	return b.direct != nil && n >= BulkBytes && n%cairn.BlockSize == 0 && off%cairn.BlockSize == 0
}

// ReadAt is as the file's.
func (b *Bulk) ReadAt(p []byte, off int64) (int, error) {
	if b.fits(len(p), off) {
		n, err := b.direct.ReadAt(p, off)
		if !errors.Is(err, syscall.EINVAL) { // other alignment, or an end of the file inside a block
			return n, err
		}
	}
	return b.f.ReadAt(p, off)
}

// WriteAt is as the file's.
func (b *Bulk) WriteAt(p []byte, off int64) (int, error) {
	if b.fits(len(p), off) {
		n, err := b.direct.WriteAt(p, off)
		if !errors.Is(err, syscall.EINVAL) {
			return n, err
		}
	}
	return b.f.WriteAt(p, off)
}

// Close releases what Bulk opened, not the file.
func (b *Bulk) Close() error {
	if b.direct == nil {
		return nil
	}
	return b.direct.Close()
}
