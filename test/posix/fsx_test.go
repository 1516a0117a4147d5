//go:build linux

package posix_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"cairn/internal/testkit/tapemount"
)

var (
	fsxTime = flag.Duration("fsx", 0, "how long random operations run; 0: a fixed number of them")
	fsxSeed = flag.Uint64("fsxseed", 1, "where their random numbers begin")
)

const (
	fsxFiles = 5
	fsxBytes = 400 << 10 // of a file, at most: some records of the tape
	fsxShort = 3000      // operations without -fsx
	fsxRound = 1000      // operations between two mounts
)

// fsxOptions let indexes take what they need: with their budget spent, an hour
// would be an hour of waiting.
var fsxOptions = tapemount.Options{Sync: "time@1s", Buffer: 1 << 20, Budget: -1}

// exerciser does random operations on a few files and on their model in memory.
type exerciser struct {
	*testing.T
	m     *tapemount.Mounted
	rng   *rand.Rand
	model map[string][]byte // nil: there is no such file
	open  map[string]*os.File
	last  string // what was done last, for messages
	done  int
}

// Random writes, truncations, mappings, renames, removals, syncs and reads of a few
// files, with the tape mounted anew now and then, are what they are on a model in
// memory.
func TestRandomOperations(t *testing.T) {
	tapemount.Need(t)
	x := &exerciser{T: t, rng: rand.New(rand.NewPCG(*fsxSeed, 6)), model: map[string][]byte{}, open: map[string]*os.File{}}
	x.m = tapemount.Mount(t, tapemount.NewTape(t), fsxOptions)
	end := time.Now().Add(*fsxTime)
	for *fsxTime > 0 && time.Now().Before(end) || *fsxTime == 0 && x.done < fsxShort {
		x.round()
	}
	x.m.Unmount()
	t.Logf("%d operations", x.done)
}

// round ends with a comparison of everything after mounting anew; a tape that is
// half full is replaced by a new one.
func (x *exerciser) round() {
	for range fsxRound {
		x.step()
		x.done++
	}
	x.closeAll()
	x.m.Again()
	for i := range fsxFiles {
		x.compare(fmt.Sprint("f", i))
	}
	var room syscall.Statfs_t
	x.ok(syscall.Statfs(x.m.Dir, &room))
	if room.Bavail < room.Blocks/2 {
		x.m.Unmount()
		x.model = map[string][]byte{}
		x.m = tapemount.Mount(x.T, tapemount.NewTape(x.T), fsxOptions)
	}
}

func (x *exerciser) closeAll() {
	for name, f := range x.open {
		x.ok(f.Close())
		delete(x.open, name)
	}
}

func (x *exerciser) ok(err error) {
	x.Helper()
	if err != nil {
		x.Fatalf("operation %d (seed %d), %s: %v", x.done, *fsxSeed, x.last, err)
	}
}

// file is an open file of a name, new where there was none.
func (x *exerciser) file(name string) *os.File {
	if f := x.open[name]; f != nil {
		return f
	}
	f, err := os.OpenFile(x.m.Path(name), os.O_RDWR|os.O_CREATE, 0o644)
	x.ok(err)
	x.open[name] = f
	if x.model[name] == nil {
		x.model[name] = []byte{}
	}
	return f
}

func (x *exerciser) step() {
	name := fmt.Sprint("f", x.rng.IntN(fsxFiles))
	k := x.rng.IntN(100)
	x.last = fmt.Sprintf("kind %d on %s", k, name)
	switch {
	case k < 35:
		x.write(name)
	case k < 60:
		x.read(name)
	case k < 68:
		size := x.rng.IntN(fsxBytes)
		x.ok(x.file(name).Truncate(int64(size)))
		x.resize(name, size)
	case k < 74:
		x.mapWrite(name)
	case k < 79:
		x.mapRead(name)
	case k < 83:
		x.ok(x.file(name).Sync())
	case k < 90:
		x.close(name)
	case k < 93:
		x.rename(name, fmt.Sprint("f", x.rng.IntN(fsxFiles)))
	case k < 95:
		x.remove(name)
	case k < 98:
		x.empty(name)
	default:
		x.m.SetAttr("", "ltfs.sync", "1")
	}
}

func (x *exerciser) resize(name string, size int) {
	kept := make([]byte, size)
	copy(kept, x.model[name])
	x.model[name] = kept
}

func (x *exerciser) write(name string) {
	f, have := x.file(name), len(x.model[name])
	n := 1 + x.rng.IntN(1<<(1+x.rng.IntN(17)))
	off := x.rng.IntN(fsxBytes - n)
	if x.rng.IntN(2) == 0 && have+n < fsxBytes {
		off = have
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(x.rng.Uint32())
	}
	_, err := f.WriteAt(data, int64(off))
	x.ok(err)
	x.resize(name, max(have, off+n))
	copy(x.model[name][off:], data)
}

func (x *exerciser) read(name string) {
	f, want := x.file(name), x.model[name]
	if len(want) == 0 {
		return
	}
	off := x.rng.IntN(len(want))
	got := make([]byte, 1+x.rng.IntN(len(want)-off))
	_, err := f.ReadAt(got, int64(off))
	x.ok(err)
	x.same(name, got, want[off:off+len(got)])
}

func (x *exerciser) same(name string, got, want []byte) {
	x.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	x.Fatalf("operation %d (seed %d), %s: %s differs at %d of %d bytes (%d in the model)", x.done, *fsxSeed, x.last, name, at, len(got), len(want))
}

func (x *exerciser) mapped(name string, prot int, use func([]byte)) {
	f, size := x.file(name), len(x.model[name])
	if size == 0 {
		return
	}
	p, err := syscall.Mmap(int(f.Fd()), 0, size, prot, syscall.MAP_SHARED)
	x.ok(err)
	use(p)
	x.ok(syscall.Munmap(p))
}

func (x *exerciser) mapWrite(name string) {
	x.mapped(name, syscall.PROT_READ|syscall.PROT_WRITE, func(p []byte) {
		off := x.rng.IntN(len(p))
		for i := off; i < len(p) && i < off+5000; i++ {
			p[i] = byte(x.rng.Uint32())
			x.model[name][i] = p[i]
		}
	})
}

func (x *exerciser) mapRead(name string) {
	x.mapped(name, syscall.PROT_READ, func(p []byte) { x.same(name, p, x.model[name]) })
}

func (x *exerciser) close(name string) {
	if f := x.open[name]; f != nil {
		x.ok(f.Close())
		delete(x.open, name)
		x.compare(name)
	}
}

func (x *exerciser) rename(from, to string) {
	if x.model[from] == nil || from == to {
		return
	}
	x.ok(os.Rename(x.m.Path(from), x.m.Path(to)))
	if f := x.open[to]; f != nil { // it has no name any more
		x.ok(f.Close())
		delete(x.open, to)
	}
	x.model[to], x.model[from] = x.model[from], nil
	if f := x.open[from]; f != nil {
		x.open[to] = f
		delete(x.open, from)
	}
}

func (x *exerciser) remove(name string) {
	if x.model[name] == nil {
		return
	}
	x.ok(os.Remove(x.m.Path(name)))
	if f := x.open[name]; f != nil {
		got := make([]byte, len(x.model[name]))
		_, err := f.ReadAt(got, 0)
		if len(got) > 0 {
			x.ok(err)
		}
		x.same(name, got, x.model[name])
		x.ok(f.Close())
		delete(x.open, name)
	}
	x.model[name] = nil
}

// empty opens a file with O_TRUNC, as programs do that rewrite it.
func (x *exerciser) empty(name string) {
	f, err := os.OpenFile(x.m.Path(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	x.ok(err)
	if old := x.open[name]; old != nil {
		x.ok(old.Close())
	}
	x.open[name], x.model[name] = f, []byte{}
}

func (x *exerciser) compare(name string) {
	x.Helper()
	got, err := os.ReadFile(x.m.Path(name))
	if x.model[name] == nil {
		if !errors.Is(err, fs.ErrNotExist) {
			x.Fatalf("operation %d (seed %d): %s is there (%v)", x.done, *fsxSeed, name, err)
		}
		return
	}
	x.ok(err)
	x.same(name, got, x.model[name])
}
