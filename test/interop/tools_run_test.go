package interop_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/format/nbdproto"
)

// TestTools runs every foreign tool on every kind of export.
func TestTools(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			d := k.make(t)
			for _, x := range []struct {
				name string
				test func(*testing.T, *disk)
			}{
				{"nbdinfo", nbdinfo}, {"nbdinfo-map", nbdinfoMap}, {"nbdinfo-dirty", nbdinfoDirty},
				{"nbdcopy-read", nbdcopyRead}, {"qemu-img-convert-read", convertRead}, {"qemu-img-map", qemuMap}, {"qemu-img-dirty", qemuDirty},
				{"qemu-img-bench-read", benchRead}, {"libnbd", corners},
				{"nbdcopy-write", nbdcopyWrite}, {"qemu-img-convert-write", convertWrite},
				{"qemu-img-bench-write", benchWrite}, {"qemu-io", qemuIO}, {"fio-verify", fio},
			} {
				t.Run(x.name, func(t *testing.T) { x.test(t, d) })
			}
		})
	}
}

func nbdinfo(t *testing.T, d *disk) {
	need(t, "nbdinfo")
	var got struct {
		Protocol string `json:"protocol"`
		Exports  []struct {
			Name     string   `json:"export-name"`
			Size     int64    `json:"export-size"`
			ReadOnly bool     `json:"is_read_only"`
			Multi    bool     `json:"can_multi_conn"`
			DF       bool     `json:"can_df"`
			FUA      bool     `json:"can_fua"`
			FastZero bool     `json:"can_fast_zero"`
			Contexts []string `json:"contexts"`
		} `json:"exports"`
	}
	if err := json.Unmarshal([]byte(run(t, d.dir, "nbdinfo", "--json", d.uri())), &got); err != nil {
		t.Fatal(err)
	}
	if got.Protocol != "newstyle-fixed" || len(got.Exports) != 1 {
		t.Fatalf("%+v", got)
	}
	e := got.Exports[0]
	if e.Size != d.size || e.ReadOnly == d.writable || !e.Multi || !e.DF || e.FUA != d.writable || e.FastZero != d.writable {
		t.Errorf("%+v, want size %d, writable %v", e, d.size, d.writable)
	}
	for name := range d.dirty {
		if !slices.Contains(e.Contexts, name) {
			t.Errorf("context %s is not among %q", name, e.Contexts)
		}
	}
	if list := run(t, d.dir, "nbdinfo", "--list", "--json", d.uri()); !strings.Contains(list, strconv.Quote(d.export)) {
		t.Errorf("nbdinfo --list does not name %s: %s", d.export, list)
	}
}

// mapped is one line of a map: a range and its type.
type mapped struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	Type   int   `json:"type"`
}

func nbdinfoJSON(t *testing.T, d *disk, context string) []mapped {
	t.Helper()
	var out []mapped
	if err := json.Unmarshal([]byte(run(t, d.dir, "nbdinfo", "--json", "--map="+context, d.uri())), &out); err != nil {
		t.Fatal(err)
	}
	at := int64(0)
	for _, m := range out {
		if m.Offset != at || m.Length <= 0 {
			t.Fatalf("the map has a gap or overlap at %d", at)
		}
		at += m.Length
	}
	if at != d.size {
		t.Fatalf("the map ends at %d, the export at %d", at, d.size)
	}
	return out
}

// What is called a hole or zero reads as zeroes, and a good part of what does is.
func nbdinfoMap(t *testing.T, d *disk) {
	need(t, "nbdinfo")
	content := d.read(t)
	empty := int64(0)
	for _, m := range nbdinfoJSON(t, d, nbdproto.ContextAllocation) {
		if m.Type == 0 {
			continue
		}
		empty += m.Length
		if len(bytes.TrimLeft(content[m.Offset:m.Offset+m.Length], "\x00")) > 0 {
			t.Errorf("%d bytes at %d are called empty (%d) and hold data", m.Length, m.Offset, m.Type)
		}
	}
	if empty < d.size/4 {
		t.Errorf("only %d of %d bytes are called empty", empty, d.size)
	}
}

// Each context tells exactly the change set: nothing that changed is called clean.
func nbdinfoDirty(t *testing.T, d *disk) {
	need(t, "nbdinfo")
	if len(d.dirty) == 0 {
		return // there is no older version
	}
	for name, want := range d.dirty {
		var got []cairn.Extent
		for _, m := range nbdinfoJSON(t, d, name) {
			if m.Type == 1 {
				got = append(got, cairn.Extent{Offset: m.Offset, Length: m.Length, Kind: cairn.ExtentData})
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: told %v, changed %v", name, got, want)
		}
	}
}

// qemu reads the same contexts as its own incremental backups do: it reports what
// is dirty as without data.
func qemuDirty(t *testing.T, d *disk) {
	need(t, "qemu-img")
	if len(d.dirty) == 0 {
		return // there is no older version
	}
	for name, want := range d.dirty {
		var extents []struct {
			Start, Length int64
			Data          bool
		}
		out := run(t, d.dir, "qemu-img", "map", "--output=json", "--image-opts",
			"driver=nbd,server.type=unix,server.path=s,export="+d.export+",x-dirty-bitmap="+name)
		if err := json.Unmarshal([]byte(out), &extents); err != nil {
			t.Fatal(err)
		}
		var got []cairn.Extent
		for _, e := range extents {
			if !e.Data {
				got = append(got, cairn.Extent{Offset: e.Start, Length: e.Length, Kind: cairn.ExtentData})
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: told %v, changed %v", name, got, want)
		}
	}
}

func nbdcopyRead(t *testing.T, d *disk) {
	need(t, "nbdcopy")
	for _, args := range [][]string{{}, {"--no-extents", "--connections=4"}, {"--request-size=4096"}} {
		run(t, d.dir, "nbdcopy", append(args, d.uri(), "copied")...)
		if sumFile(t, d.dir, "copied") != d.sum(t) {
			t.Errorf("nbdcopy %v: the copy differs", args)
		}
	}
}

func convertRead(t *testing.T, d *disk) {
	need(t, "qemu-img")
	run(t, d.dir, "qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri(), "converted")
	if sumFile(t, d.dir, "converted") != d.sum(t) {
		t.Error("the converted image differs")
	}
	run(t, d.dir, "qemu-img", "compare", "-f", "raw", "-F", "raw", d.uri(), "converted")
	if d.size%512 == 0 {
		other := append([]byte(nil), d.read(t)...)
		other[d.size/2] ^= 1
		write(t, d.dir, "other", other)
		if _, err := attempt(t, d.dir, "qemu-img", "compare", "-f", "raw", "-F", "raw", d.uri(), "other"); err == nil {
			t.Error("qemu-img compare sees no difference where there is one")
		}
	}
}

func qemuMap(t *testing.T, d *disk) {
	need(t, "qemu-img")
	var extents []struct {
		Start, Length int64
		Zero, Data    bool
	}
	if err := json.Unmarshal([]byte(run(t, d.dir, "qemu-img", "map", "-f", "raw", "--output=json", d.uri())), &extents); err != nil {
		t.Fatal(err)
	}
	content, at, zero := d.read(t), int64(0), int64(0)
	for _, e := range extents {
		if e.Start != at {
			t.Fatalf("the map has a gap at %d", at)
		}
		at += e.Length
		if !e.Zero {
			continue
		}
		zero += e.Length
		if len(bytes.TrimLeft(content[e.Start:min(d.size, e.Start+e.Length)], "\x00")) > 0 {
			t.Errorf("%d bytes at %d are called zero and hold data", e.Length, e.Start)
		}
	}
	if zero < d.size/4 {
		t.Errorf("only %d of %d bytes are called zero", zero, d.size)
	}
}

func benchRead(t *testing.T, d *disk) {
	need(t, "qemu-img")
	run(t, d.dir, "qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "32", "-s", "4096", d.uri())
}

func benchWrite(t *testing.T, d *disk) {
	need(t, "qemu-img")
	if !d.writable {
		if _, err := attempt(t, d.dir, "qemu-img", "bench", "-f", "raw", "-w", "-c", "10", d.uri()); err == nil {
			t.Error("a read-only export was written")
		}
		return
	}
	run(t, d.dir, "qemu-img", "bench", "-f", "raw", "-w", "-c", "500", "-d", "32", "-s", "4096", "--pattern=171", "--flush-interval=100", d.uri())
	content := d.read(t)
	if !bytes.Equal(content[:500*4096], bytes.Repeat([]byte{171}, 500*4096)) {
		t.Error("what qemu-img bench wrote is not there")
	}
}

// image makes content with data and holes.
func image(size int64, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 3))
	b := make([]byte, size)
	for off := int64(0); off < size; off += 64 << 10 {
		if r.IntN(2) == 0 {
			continue
		}
		for i := off; i < min(size, off+64<<10); i++ {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func nbdcopyWrite(t *testing.T, d *disk) {
	need(t, "nbdcopy")
	source := image(d.size, 11)
	write(t, d.dir, "source", source)
	out, err := attempt(t, d.dir, "nbdcopy", "--flush", "source", d.uri())
	if !d.writable {
		if err == nil {
			t.Error("a read-only export was written")
		}
		return
	}
	if err != nil {
		t.Fatal(out)
	}
	if d.sum(t) != sha256.Sum256(source) {
		t.Error("the export differs from what nbdcopy wrote")
	}
}

func convertWrite(t *testing.T, d *disk) {
	need(t, "qemu-img")
	source := image(d.size, 12)
	write(t, d.dir, "source", source)
	_, err := attempt(t, d.dir, "qemu-img", "convert", "-n", "-W", "-f", "raw", "-O", "raw", "source", d.uri())
	if (err == nil) != d.writable {
		t.Fatalf("writable %v, qemu-img said %v", d.writable, err)
	}
	if d.writable && d.sum(t) != sha256.Sum256(source) {
		t.Error("the export differs from what qemu-img wrote")
	}
}

func qemuIO(t *testing.T, d *disk) {
	need(t, "qemu-io")
	if !d.writable {
		return
	}
	out := run(t, d.dir, "qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "write -z -u 64k 64k", "-c", "discard 128k 64k",
		"-c", "aio_write -P 2 256k 64k", "-c", "aio_write -P 3 320k 64k", "-c", "aio_flush", "-c", "write -f -P 4 512 512",
		"-c", "read -P 1 0 512", "-c", "read -P 4 512 512", "-c", "read -P 0 64k 64k", "-c", "read -P 2 256k 64k",
		"-c", "read -P 3 320k 64k", "-c", "flush", d.uri())
	if strings.Contains(out, "failed") {
		t.Error(out)
	}
}

func fio(t *testing.T, d *disk) {
	need(t, "fio")
	if !d.writable {
		return
	}
	size := fmt.Sprint(min(d.size, scale*2<<20) &^ 4095)
	for _, args := range [][]string{
		{"--rw=randwrite", "--bs=4k", "--iodepth=32"},
		{"--rw=write", "--bs=256k", "--iodepth=4"},
		{"--rw=randwrite", "--bs=512", "--iodepth=8", "--io_size=512k"},
		{"--rw=write", "--bssplit=512/20:4k/40:64k/40", "--iodepth=8"},
	} {
		run(t, d.dir, "fio", append(args, "--name=verify", "--ioengine=nbd", "--uri="+d.uri(), "--size="+size,
			"--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=5", "--fsync=256", "--output-format=terse")...)
	}
}
