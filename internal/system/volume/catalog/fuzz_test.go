package catalog_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/testkit/fakedisk"
)

// The layout of a record, as docs/formats/volume.md has it, with twins and without.
const (
	recordHead  = 32
	recordAlign = 512
	plainMagic  = 0x31544343
	twinMagic   = 0x32544343
)

// vouch gives every record in p the checksum that makes it count, so that what it
// says is looked at and not only that it is damaged.
func vouch(p []byte) {
	le := binary.LittleEndian
	table := crc32.MakeTable(crc32.Castagnoli)
	for at := 0; at+recordHead <= len(p); at += recordAlign {
		r := p[at:]
		n := recordHead + int(le.Uint32(r[4:]))
		if sign := le.Uint32(r); sign != plainMagic && sign != twinMagic || n > len(r) {
			continue
		}
		le.PutUint32(r[24:], crc32.Update(crc32.Checksum(r[:24], table), table, r[28:n]))
	}
}

// written is the bytes of a catalog with a little of everything in it.
func written(f *testing.F) []byte {
	f.Helper()
	disk := fakedisk.New()
	l, err := catalog.Create(disk, catalog.State{Store: catalog.Store{ID: 7, Format: 1, Created: time.Unix(1, 0).UTC()}, Head: catalog.Head{Size: 1 << 20, NextID: 4, Interval: 1}})
	if err != nil {
		f.Fatal(err)
	}
	head := l.State().Head
	head.Receiving = &catalog.Receiving{To: cairn.VersionID{Name: "@c", GUID: 3}, Token: []byte("x")}
	for _, e := range []catalog.Edit{
		{Why: "a", Versions: []catalog.Version{{Name: "@a", GUID: 1, Order: 2, Start: 2}, {Name: "#a", GUID: 1, Order: 2, Start: 2}}},
		{Why: "b", Segments: []catalog.Segment{{ID: 3, Interval: 2}}, Sets: []catalog.Set{{ID: 4, From: 1, To: 2}}, Head: &head},
		{Why: "c", GoneVersions: []string{"@a"}, GoneSegments: []uint64{3}},
	} {
		if err := l.Commit(e); err != nil {
			f.Fatal(err)
		}
	}
	info, err := disk.Stat(catalog.Name)
	if err != nil {
		f.Fatal(err)
	}
	p := make([]byte, info.Size())
	file, err := disk.Open(catalog.Name, false)
	if err == nil {
		_, err = file.ReadAt(p, 0)
	}
	if err != nil {
		f.Fatal(err)
	}
	return p
}

func asText(t *testing.T, l *catalog.Log) string {
	t.Helper()
	p, err := json.Marshal(l.State())
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// FuzzOpen: no bytes make reading a catalog panic; what it accepts can be changed,
// and reads the same the next time.
func FuzzOpen(f *testing.F) {
	whole := written(f)
	f.Add(true, whole)
	f.Add(true, bytes.Replace(whole, []byte(`"name":"@a"`), []byte(`"name":""  `), 1))
	f.Add(false, whole)
	f.Add(false, whole[:len(whole)-recordAlign])
	f.Add(false, append(whole[:2*recordAlign:2*recordAlign], make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, counts bool, p []byte) {
		if counts {
			p = append([]byte(nil), p...)
			vouch(p)
		}
		disk := fakedisk.New()
		file, err := disk.Create(catalog.Name)
		if err == nil {
			_, err = file.WriteAt(p, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		l, err := catalog.Open(disk)
		if err != nil {
			if !errors.Is(err, cairn.KindCorrupt) && !errors.Is(err, cairn.KindUnsupported) {
				t.Fatalf("not called corrupt: %v", err)
			}
			return
		}
		l.State().Garbage()
		if err := l.Commit(catalog.Edit{Why: "more", Versions: []catalog.Version{{Name: "@fuzz", GUID: 9, Order: 1 << 40, Start: 1 << 40}}}); err != nil {
			t.Fatal(err)
		}
		if err := l.Compact(); err != nil {
			t.Fatal(err)
		}
		again, err := catalog.Open(disk)
		if err != nil {
			t.Fatalf("written anew it cannot be read: %v", err)
		}
		if got, want := asText(t, again), asText(t, l); got != want {
			t.Fatalf("written anew it says\n%s\nnot\n%s", got, want)
		}
	})
}
