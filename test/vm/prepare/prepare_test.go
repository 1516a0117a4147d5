package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const madison = `
  zfs-dkms | 2.4.4-1~bpo13+1 | http://mirror.example/debian trixie-backports/contrib amd64 Packages
linux-headers-6.12.9+deb13-amd64 | 6.12.9-1 | http://mirror.example/debian trixie/main amd64 Packages
linux-headers-6.12.107+deb13-amd64 | 6.12.107-1 | http://mirror.example/debian trixie/main amd64 Packages
linux-image-6.12.9+deb13-amd64 | 6.12.9-1 | http://mirror.example/debian trixie/main amd64 Packages
linux-image-6.12.107+deb13-amd64 | 6.12.107-1 | http://mirror.example/debian trixie/main amd64 Packages
linux-headers-6.12.200+deb13-rt-amd64 | 6.12.200-1 | http://mirror.example/debian trixie/main amd64 Packages
linux-image-6.12.200+deb13-rt-amd64 | 6.12.200-1 | http://mirror.example/debian trixie/main amd64 Packages
linux-headers-7.2.9+deb13-amd64 | 7.2.9-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-binary-7.2.9+deb13-amd64 | 7.2.9-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-modules-7.2.9+deb13-amd64 | 7.2.9-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-headers-7.2.12+deb13-amd64 | 7.2.12-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-binary-7.2.12+deb13-amd64 | 7.2.12-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-modules-7.2.12+deb13-amd64 | 7.2.12-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-image-7.2.12+deb13-amd64 | 7.2.12-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-binary-7.2.12+deb13-amd64 | 7.2.12-0 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-headers-7.2.13+deb13-amd64 | 7.2.13-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-modules-7.2.13+deb13-amd64 | 7.2.13-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-image-7.2.13+deb13-amd64 | 7.2.13-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-headers-7.3.4+deb13-amd64 | 7.3.4-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-binary-7.3.4+deb13-amd64 | 7.3.4-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-modules-7.3.4+deb13-amd64 | 7.3.4-1 | http://mirror.example/debian trixie-backports/main amd64 Packages
linux-headers-7.2.50+deb13-amd64 | 7.2.50-1 | http://mirror.example/debian trixie-backports/main Sources
`

const meta = "Meta:          1\nName:          zfs\nVersion:       2.4.4\nLinux-Maximum: 7.2\nLinux-Minimum: 4.18\n"

func TestChooseKernel(t *testing.T) {
	l, err := parseMeta(meta)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, suite string
		limits      limits
		release     string
		version     string
		packages    int
	}{
		{"newest whole one below the limit", "trixie-backports", l, "7.2.12+deb13-amd64", "7.2.12-1", 2},
		{"numbers, not text; no real-time flavour; one package", "trixie", l, "6.12.107+deb13-amd64", "6.12.107-1", 1},
		{"newer OpenZFS", "trixie-backports", limits{[]int{4, 18}, []int{7, 3}}, "7.3.4+deb13-amd64", "7.3.4-1", 2},
		{"none", "trixie", limits{[]int{4, 18}, []int{6, 11}}, "", "", 0},
		{"too old", "trixie", limits{[]int{6, 13}, []int{7, 2}}, "", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chooseKernel(parseMadison(madison), c.suite, c.limits)
			if (err != nil) != (c.release == "") || got.release != c.release || got.version != c.version || len(got.kernel) != c.packages {
				t.Errorf("chose %+v, %v", got, err)
			}
		})
	}
}

func TestMetaWithoutLimits(t *testing.T) {
	for _, text := range []string{"", "Linux-Maximum: 7.2\n", "Linux-Maximum: x\nLinux-Minimum: 4.18\n"} {
		if l, err := parseMeta(text); err == nil {
			t.Errorf("%q gives %v", text, l)
		}
	}
}

// All that a machine is made of is part of its name.
func TestNameTellsVersions(t *testing.T) {
	all := []choice{{}, {pair: pairs["stable"]}, {release: "7.2.12"}, {version: "1"}, {zfs: "2.4.4"}, {kernel: []string{"linux-image"}}}
	names := map[string]bool{}
	for _, c := range all {
		names[c.name("k")] = true
	}
	if len(names) != len(all) {
		t.Errorf("%d choices have %d names", len(all), len(names))
	}
}

// The archive is read back by the rules of the format: fields in hexadecimal,
// names and contents padded to four bytes, a trailer at the end.
func TestArchive(t *testing.T) {
	a := newArchive()
	a.folder("bin")
	a.file("init", 0o755, []byte("#!"))
	a.file("bin/tool", 0o644, bytes.Repeat([]byte{7}, 1001))
	b := a.bytes()
	var got []string
	for at := 0; at < len(b); {
		if at%4 != 0 || string(b[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		field := func(i int) (v int) {
			if _, err := fmt.Sscanf(string(b[at+6+8*i:at+14+8*i]), "%08X", &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
		size, name := field(6), string(b[at+110:at+110+field(11)-1])
		content := (at + 110 + field(11) + 3) &^ 3
		got = append(got, fmt.Sprintf("%s %o %d", name, field(1), size))
		if name == "bin/tool" && !bytes.Equal(b[content:content+size], bytes.Repeat([]byte{7}, 1001)) {
			t.Error("the content of bin/tool differs")
		}
		at = (content + size + 3) &^ 3
	}
	if want := []string{"bin 40755 0", "init 100755 2", "bin/tool 100644 1001", "TRAILER!!! 0 0"}; !slices.Equal(got, want) {
		t.Errorf("holds %q, want %q", got, want)
	}
}

func TestUnwrap(t *testing.T) {
	payload := append([]byte("\x28\xb5\x2f\xfd"), bytes.Repeat([]byte{9}, 60)...)
	image := make([]byte, 3*512+100)
	image[0x1f1] = 2
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x248:], 100)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)+4))
	image = append(image, payload...)
	image = append(image, 1, 2, 3, 4, 0xee, 0xee) // unpacked size, then what follows
	got, tool, err := unwrap(image)
	if err != nil || tool != "zstd" || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes for %q, %v", len(got), tool, err)
	}
	for name, bad := range map[string]func([]byte){
		"no bzImage":     func(b []byte) { b[0x202] = 'x' },
		"too long":       func(b []byte) { b[0x24d] = 0xff },
		"unknown packer": func(b []byte) { b[3*512+100] = 0 },
	} {
		b := bytes.Clone(image)
		bad(b)
		if _, _, err := unwrap(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, _, err := unwrap(image[:100]); err == nil {
		t.Error("a cut image is taken")
	}
}

// A pair's name leads to its newest machine; older ones of the same pair go, those
// of others stay.
func TestPoint(t *testing.T) {
	cache := t.TempDir()
	for _, dir := range []string{"stable-1", "stable-2", "backports-1", "openzfs-x"} {
		if err := os.Mkdir(filepath.Join(cache, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"stable-1", "stable-2"} {
		if err := point(cache, "stable", name); err != nil {
			t.Fatal(err)
		}
		if at, err := os.Readlink(filepath.Join(cache, "stable")); err != nil || at != name {
			t.Errorf("leads to %q, %v", at, err)
		}
		if err := os.MkdirAll(filepath.Join(cache, "stable-2"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if want := []string{"backports-1", "openzfs-x", "stable", "stable-2"}; !slices.Equal(names, want) {
		t.Errorf("left are %q", names)
	}
}

func TestUnknownPair(t *testing.T) {
	err := run(t.Context(), "sid", t.TempDir(), true)
	if err == nil || !strings.Contains(err.Error(), "backports, stable") {
		t.Errorf("got %v", err)
	}
}
