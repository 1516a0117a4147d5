package zfsstream_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// golden is a file of testdata, unpacked. OpenZFS 2.4.4 made all of them.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// streams are the names of all golden streams.
func streams(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.gz")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	var names []string
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".gz"); !strings.HasSuffix(name, ".raw") {
			names = append(names, name)
		}
	}
	return names
}

// count reads a stream to its end and counts its records and bytes of payloads.
func count(b []byte) (counts [zfsstream.Types]int64, payload int64, err error) {
	r, err := zfsstream.NewReader(bytes.NewReader(b))
	if err != nil {
		return counts, 0, err
	}
	counts[zfsstream.TypeBegin] = 1
	payload = int64(binary.LittleEndian.Uint32(b[4:])) // of the header
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return counts, payload, nil
		}
		if err != nil {
			return counts, payload, err
		}
		counts[rec.Type]++
		payload += int64(len(rec.Payload))
	}
}

// The reader and a check count in the golden streams what `zstream dump` counts:
// begin, end, object, freeobjects, write, embedded, free, spill, all records, bytes
// of payloads, bytes of the stream.
func TestGolden(t *testing.T) {
	table, err := os.ReadFile("testdata/zstream.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(table)) {
		name, counts, _ := strings.Cut(strings.TrimSpace(line), " ")
		lines[name] = counts
	}
	for _, name := range streams(t) {
		b := golden(t, name)
		counts, payload, err := count(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c := zfsstream.Check(bytes.NewReader(b), zfsstream.CheckOptions{})
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s := c.Summary()
		all := int64(0)
		for _, n := range s.Records {
			all += n
		}
		n := s.Records
		got := fmt.Sprint(n[zfsstream.TypeBegin], n[zfsstream.TypeEnd], n[zfsstream.TypeObject], n[zfsstream.TypeFreeObjects], n[zfsstream.TypeWrite],
			n[zfsstream.TypeEmbedded], n[zfsstream.TypeFree], n[zfsstream.TypeSpill], all, s.Payload, s.Bytes)
		if got != lines[name] {
			t.Errorf("%s: counted %s, zstream %s", name, got, lines[name])
		}
		if counts != n || payload != s.Payload {
			t.Errorf("%s: the reader counts %v and %d bytes, the check %v and %d", name, counts, payload, n, s.Payload)
		}
	}
}

// A check hands out just what it was given, in pieces of any size, and counts it.
func TestCheckPasses(t *testing.T) {
	for _, name := range streams(t) {
		b := golden(t, name)
		for _, r := range []io.Reader{bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b)), iotest.HalfReader(bytes.NewReader(b))} {
			c := zfsstream.Check(r, zfsstream.CheckOptions{})
			got, err := io.ReadAll(c)
			if s := c.Summary(); err != nil || !bytes.Equal(got, b) || s.Bytes != int64(len(b)) || s.Unread != "" {
				t.Errorf("%s: %v, %d of %d bytes, %+v", name, err, len(got), len(b), s)
			}
		}
	}
}

// A check that leaves the sums to others lets a changed byte of a payload pass, and
// still finds a cut at any byte, a byte behind the end and a record that is none.
func TestCheckWithoutSums(t *testing.T) {
	leave := zfsstream.CheckOptions{LeaveSums: true}
	for _, name := range []string{"Lce", "R", "w"} {
		b := golden(t, name)
		if got, err := io.ReadAll(zfsstream.Check(bytes.NewReader(b), leave)); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %v", name, err)
		}
		for at := 0; at < len(b); at += 37 {
			if _, err := io.ReadAll(zfsstream.Check(bytes.NewReader(b[:at]), leave)); cairn.KindOf(err) != cairn.KindCorrupt || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: cut at %d: %v", name, at, err)
			}
		}
		if _, err := io.ReadAll(zfsstream.Check(bytes.NewReader(append(bytes.Clone(b), make([]byte, zfsstream.RecordBytes)...)), leave)); cairn.KindOf(err) != cairn.KindCorrupt {
			t.Errorf("%s: bytes behind the end: %v", name, err)
		}
		passed := 0
		walk(b, func(_ binary.ByteOrder, head, payload []byte) {
			if len(payload) > 0 && passed == 0 && binary.LittleEndian.Uint32(head) != uint32(zfsstream.TypeBegin) {
				payload[0] ^= 0x10
				passed++
			}
		})
		if _, err := io.ReadAll(zfsstream.Check(bytes.NewReader(b), leave)); err != nil || passed == 0 {
			t.Errorf("%s: a changed payload: %v", name, err)
		}
	}
}

// Any byte of a stream that is changed is found, by the reader and by a check; so
// is a cut at any byte.
func TestDamageIsFound(t *testing.T) {
	for _, name := range []string{"Lce", "R", "w"} {
		b := golden(t, name)
		for at := 0; at < len(b); at += 37 {
			b[at] ^= 0x10
			_, _, err := count(b)
			_, checked := io.ReadAll(zfsstream.Check(bytes.NewReader(b), zfsstream.CheckOptions{}))
			b[at] ^= 0x10
			if err == nil || checked == nil {
				t.Errorf("%s: byte %d changed: reader %v, check %v", name, at, err, checked)
			}
			_, _, err = count(b[:at])
			_, checked = io.ReadAll(zfsstream.Check(bytes.NewReader(b[:at]), zfsstream.CheckOptions{}))
			for _, err := range []error{err, checked} {
				if cairn.KindOf(err) != cairn.KindCorrupt || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s: cut at %d: %v", name, at, err)
				}
			}
		}
	}
}
