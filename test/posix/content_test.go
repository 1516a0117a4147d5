//go:build linux

package posix_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cairn/internal/testkit/tapemount"
)

func init() { maps.Copy(cases, contentCases) }

var contentCases = map[string]func(*place){
	"rename": func(p *place) {
		p.write("a", "a")
		p.mkdir("d")
		p.mkdir("full")
		p.write("full/x", "x")
		p.mkdir("empty")
		rename := func(from, to string) error { return syscall.Rename(p.path(from), p.path(to)) }
		p.fails("missing", rename("none", "b"), syscall.ENOENT)
		p.fails("into nothing", rename("a", "none/b"), syscall.ENOENT)
		p.fails("file over folder", rename("a", "d"), syscall.EISDIR)
		p.fails("folder over file", rename("d", "a"), syscall.ENOTDIR)
		p.fails("folder over a full one", rename("d", "full"), syscall.ENOTEMPTY, syscall.EEXIST)
		p.fails("into itself", rename("d", "d/x"), syscall.EINVAL)
		p.fails("onto itself", rename("a", "a"), 0)
		p.fails("dot", rename("d/.", "e"), syscall.EBUSY, syscall.EINVAL)
		p.fails("folder over an empty one", rename("full", "empty"), 0)
		p.holds("empty/x", "x")
		p.absent("full")
		p.holds("a", "a")
		p.fails("below a file", rename("d", "a/d"), syscall.ENOTDIR)
	},
	"rename of open files": func(p *place) {
		p.write("target", "old")
		old := p.open("target", os.O_RDONLY)
		f := p.open("f", os.O_CREATE|os.O_RDWR)
		_, err := f.WriteString("begun")
		p.must(err)
		p.must(os.Rename(p.path("f"), p.path("target")))
		_, err = f.WriteString(", ended")
		p.must(err)
		p.holds("target", "begun, ended")
		if got, err := io.ReadAll(old); err != nil || string(got) != "old" {
			p.Errorf("who had the replaced file open reads %q (%v)", got, err)
		}
	},
	"rename of a folder with open files": func(p *place) {
		p.must(os.MkdirAll(p.path("a/b"), 0o755))
		f := p.open("a/b/f", os.O_CREATE|os.O_RDWR)
		p.must(os.Rename(p.path("a"), p.path("c")))
		_, err := f.WriteString("x")
		p.must(err)
		p.holds("c/b/f", "x")
	},
	"truncate": func(p *place) {
		p.write("f", "0123456789")
		p.must(os.Truncate(p.path("f"), 4))
		p.holds("f", "0123")
		p.must(os.Truncate(p.path("f"), 8))
		p.holds("f", "0123\x00\x00\x00\x00")
		p.must(os.Truncate(p.path("f"), 0))
		p.holds("f", "")
		p.must(os.Truncate(p.path("f"), 3<<20))
		if st := p.stat("f"); st.Size != 3<<20 {
			p.Errorf("size %d", st.Size)
		}
		p.mkdir("d")
		p.fails("folder", os.Truncate(p.path("d"), 0), syscall.EISDIR)
		p.fails("negative", os.Truncate(p.path("f"), -1), syscall.EINVAL)
		p.fails("missing", os.Truncate(p.path("none"), 0), syscall.ENOENT)
		p.fails("read-only handle", p.open("f", os.O_RDONLY).Truncate(0), syscall.EINVAL)
	},
	"append": func(p *place) {
		var wait sync.WaitGroup
		for _, who := range "abcd" {
			f := p.open("log", os.O_CREATE|os.O_WRONLY|os.O_APPEND)
			wait.Go(func() {
				for range 50 {
					_, _ = f.WriteString(strings.Repeat(string(who), 99) + "\n")
				}
			})
		}
		wait.Wait()
		text, err := os.ReadFile(p.path("log"))
		p.must(err)
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		if len(lines) != 200 {
			p.Errorf("%d lines", len(lines))
		}
		for _, l := range lines {
			if len(l) != 99 || strings.Trim(l, l[:1]) != "" {
				p.Fatalf("a torn line: %q", l)
			}
		}
	},
	"sparse": func(p *place) {
		f := p.open("f", os.O_CREATE|os.O_RDWR)
		for _, off := range []int64{5 << 20, 1 << 20, 100} {
			_, err := f.WriteAt([]byte("data"), off)
			p.must(err)
		}
		want := make([]byte, 5<<20+4)
		for _, off := range []int64{5 << 20, 1 << 20, 100} {
			copy(want[off:], "data")
		}
		got, err := os.ReadFile(p.path("f"))
		if err != nil || !bytes.Equal(got, want) {
			p.Errorf("%d bytes (%v)", len(got), err)
		}
		if end, err := f.Seek(0, io.SeekEnd); err != nil || end != int64(len(want)) {
			p.Errorf("its end is at %d (%v)", end, err)
		}
		p.fails("before the beginning", second(f.Seek(-1, io.SeekStart)), syscall.EINVAL)
		if n, err := f.ReadAt(make([]byte, 10), int64(len(want))); n != 0 || err != io.EOF {
			p.Errorf("behind the end: %d, %v", n, err)
		}
	},
	"a second handle sees what was written": func(p *place) {
		w, r := p.open("f", os.O_CREATE|os.O_WRONLY), p.open("f", os.O_RDONLY)
		for i := range 100 {
			_, err := fmt.Fprintf(w, "%09d\n", i)
			p.must(err)
			got := make([]byte, 10)
			if _, err := r.ReadAt(got, int64(i*10)); err != nil || string(got) != fmt.Sprintf("%09d\n", i) {
				p.Fatalf("line %d: %q, %v", i, got, err)
			}
		}
	},
	"mmap": func(p *place) {
		text := strings.Repeat("mapped memory. ", 1000)
		p.write("f", text)
		f := p.open("f", os.O_RDWR)
		shared, err := syscall.Mmap(int(f.Fd()), 0, len(text), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		p.must(err)
		if string(shared) != text {
			p.Error("the mapping differs")
		}
		private, err := syscall.Mmap(int(f.Fd()), 0, len(text), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
		p.must(err)
		copy(private[100:], "seen by nobody")
		copy(shared[5000:], "written through the mapping")
		p.must(syscall.Munmap(private))
		p.must(syscall.Munmap(shared))
		p.must(f.Sync())
		p.holds("f", text[:5000]+"written through the mapping"+text[5027:])
	},
	"attributes": func(p *place) {
		p.write("f", "x")
		p.mkdir("d")
		get := func(name, key string) (string, error) {
			buf := make([]byte, 8192)
			n, err := syscall.Getxattr(p.path(name), key, buf)
			return string(buf[:max(n, 0)]), err
		}
		values := map[string]string{"user.empty": "", "user.text": "text", "user.bytes": "\x00\xff\r\n", "user.long": strings.Repeat("v", 4000), "user.odd key: ü": "v"}
		if p.tape {
			values["user.long"] = strings.Repeat("v", 4096)
		}
		for _, file := range []string{"f", "d"} {
			if !p.tape { // a disk has room for a page of them
				delete(values, "user.long")
			}
			for key, value := range values {
				p.must(syscall.Setxattr(p.path(file), key, []byte(value), 0))
			}
			for key, value := range values {
				if got, err := get(file, key); err != nil || got != value {
					p.Errorf("%s: %.40q, want %.40q (%v)", key, got, value, err)
				}
			}
			list := make([]byte, 4096)
			n, err := syscall.Listxattr(p.path(file), list)
			p.must(err)
			names := slices.DeleteFunc(strings.Split(string(list[:n]), "\x00"), func(s string) bool { return !strings.HasPrefix(s, "user.") })
			if len(names) != len(values) {
				p.Errorf("listed: %q", names)
			}
		}
		const mustBeNew, mustBeThere = 1, 2
		p.fails("new, and there", syscall.Setxattr(p.path("f"), "user.text", nil, mustBeNew), syscall.EEXIST)
		p.fails("there, and new", syscall.Setxattr(p.path("f"), "user.none", nil, mustBeThere), syscall.ENODATA)
		p.fails("none", second(get("f", "user.none")), syscall.ENODATA)
		p.fails("short buffer", second(syscall.Getxattr(p.path("f"), "user.text", make([]byte, 2))), syscall.ERANGE)
		p.must(syscall.Removexattr(p.path("f"), "user.text"))
		p.fails("removed", second(get("f", "user.text")), syscall.ENODATA)
		p.fails("removed again", syscall.Removexattr(p.path("f"), "user.text"), syscall.ENODATA)
		if p.tape {
			p.fails("too long", syscall.Setxattr(p.path("f"), "user.v", make([]byte, 4097), 0), syscall.E2BIG)
			p.fails("another name space", syscall.Setxattr(p.path("f"), "trusted.v", []byte("x"), 0), syscall.ENOTSUP)
		}
	},
	"reading a folder that changes": func(p *place) {
		const count = 1500
		for i := range count {
			p.write(fmt.Sprintf("old%d", i), "")
		}
		d := p.open("", os.O_RDONLY)
		seen := map[string]int{}
		for round := 0; ; round++ {
			names, err := d.Readdirnames(100)
			for _, n := range names {
				seen[n]++
			}
			if err == io.EOF {
				break
			}
			p.must(err)
			p.write(fmt.Sprintf("new%d", round), "")
			p.must(os.Remove(p.path(fmt.Sprintf("old%d", round*2+1))))
		}
		for i := range count {
			name := fmt.Sprintf("old%d", i)
			untouched := i%2 == 0 || i > 200
			if seen[name] > 1 || untouched && seen[name] != 1 {
				p.Fatalf("%s was listed %d times", name, seen[name])
			}
		}
		_, err := d.Seek(0, io.SeekStart)
		p.must(err)
		if names, err := d.Readdirnames(-1); err != nil || !slices.Contains(names, "new0") || slices.Contains(names, "old1") {
			p.Errorf("rewound, it lists %d names (%v)", len(names), err)
		}
	},
	"removing a folder as it is read": func(p *place) {
		for i := range 700 {
			p.write(fmt.Sprint(i), "")
		}
		d := p.open("", os.O_RDONLY)
		for {
			names, err := d.Readdirnames(50)
			for _, n := range names {
				p.must(os.Remove(p.path(n)))
			}
			if err == io.EOF {
				break
			}
			p.must(err)
		}
		if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
			p.Errorf("%d are left (%v)", len(left), err)
		}
	},
	"writes of every size and place": func(p *place) {
		rng := rand.New(rand.NewPCG(3, 3))
		f := p.open("f", os.O_CREATE|os.O_RDWR)
		var model []byte
		for range 300 {
			off, n := rng.IntN(len(model)+1), 1+rng.IntN(1<<rng.IntN(18))
			data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, n)
			_, err := f.WriteAt(data, int64(off))
			p.must(err)
			model = append(model, make([]byte, max(0, off+n-len(model)))...)
			copy(model[off:], data)
		}
		if got, err := os.ReadFile(p.path("f")); err != nil || !bytes.Equal(got, model) {
			p.Errorf("%d bytes, want %d (%v)", len(got), len(model), err)
		}
	},
	"fsync": func(p *place) {
		p.mkdir("d")
		f := p.open("d/f", os.O_CREATE|os.O_RDWR)
		_, err := f.WriteString("x")
		p.must(err)
		p.must(f.Sync())
		p.must(syscall.Fdatasync(int(f.Fd())))
		p.must(p.open("d/f", os.O_RDONLY).Sync())
		p.must(p.open("d", os.O_RDONLY).Sync())
		s := p.open("synced", os.O_CREATE|os.O_WRONLY|syscall.O_SYNC)
		_, err = s.WriteString("x")
		p.must(err)
	},
	"copying within": func(p *place) {
		text := strings.Repeat("0123456789", 30000)
		p.write("from", text)
		from, to := p.open("from", os.O_RDONLY), p.open("to", os.O_CREATE|os.O_WRONLY)
		if n, err := io.Copy(to, from); err != nil || n != int64(len(text)) { // copy_file_range(2)
			p.Errorf("%d, %v", n, err)
		}
		p.holds("to", text)
	},
}

// Names, attributes, times and links are the same after mounting anew.
func TestKeptByTheTape(t *testing.T) {
	tapemount.Need(t)
	m := tapemount.Mount(t, tapemount.NewTape(t), tapemount.Options{})
	p := &place{T: t, dir: m.Dir, tape: true}
	for i, name := range oddNames() {
		p.mkdir(name)
		p.write(name+"/"+name, name)
		p.must(syscall.Setxattr(p.path(name+"/"+name), "user.a:ä", []byte{byte(i), 0, '\r'}, 0))
		p.must(os.Symlink(name, p.path(name+"/link")))
	}
	before := map[string]syscall.Stat_t{}
	for _, name := range oddNames() {
		before[name] = p.stat(name + "/" + name)
	}
	m.Again()
	for i, name := range oddNames() {
		p.holds(name+"/"+name, name)
		st, was := p.stat(name+"/"+name), before[name]
		if st.Mtim != was.Mtim || st.Ctim != was.Ctim || st.Atim != was.Atim || st.Ino != was.Ino {
			t.Errorf("%q: %+v, was %+v", name, st, was)
		}
		if got := m.Attr(name+"/"+name, "a:ä"); got != string([]byte{byte(i), 0, '\r'}) {
			t.Errorf("%q: attribute %q", name, got)
		}
		if target, err := os.Readlink(p.path(name + "/link")); err != nil || target != name {
			t.Errorf("%q: link to %q (%v)", name, target, err)
		}
	}
	m.Unmount()
}
