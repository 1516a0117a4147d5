//go:build linux

package posix_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// cases are what programs rely on, by what they are about.
var cases = map[string]func(*place){
	"open": func(p *place) {
		p.write("f", "content")
		p.mkdir("d")
		p.must(os.Symlink("f", p.path("link")))
		p.must(os.Symlink("loop2", p.path("loop1")))
		p.must(os.Symlink("loop1", p.path("loop2")))
		p.fails("exclusive", p.opens("f", os.O_CREATE|os.O_EXCL|os.O_WRONLY), syscall.EEXIST)
		p.fails("exclusive over a link", p.opens("link", os.O_CREATE|os.O_EXCL|os.O_WRONLY), syscall.EEXIST)
		p.fails("missing", p.opens("none", os.O_RDONLY), syscall.ENOENT)
		p.fails("missing folder", p.opens("none/f", os.O_CREATE|os.O_WRONLY), syscall.ENOENT)
		p.fails("file as folder", p.opens("f/x", os.O_CREATE|os.O_WRONLY), syscall.ENOTDIR)
		p.fails("folder for writing", p.opens("d", os.O_RDWR), syscall.EISDIR)
		p.fails("file as O_DIRECTORY", p.opens("f", syscall.O_DIRECTORY), syscall.ENOTDIR)
		p.fails("link with O_NOFOLLOW", p.opens("link", syscall.O_NOFOLLOW), syscall.ELOOP)
		p.fails("loop of links", p.opens("loop1", os.O_RDONLY), syscall.ELOOP)
		p.fails("through a link", p.opens("link", os.O_RDWR), 0)
		p.fails("trailing slash", p.opens("new/", os.O_CREATE|os.O_WRONLY), syscall.EISDIR)
		p.fails("read access only", second(p.open("f", os.O_RDONLY).Write([]byte("x"))), syscall.EBADF)
		p.fails("write access only", second(p.open("f", os.O_WRONLY).Read(make([]byte, 1))), syscall.EBADF)
		p.holds("f", "content")
	},
	"truncating open": func(p *place) {
		p.write("f", "old content")
		reader := p.open("f", os.O_RDONLY)
		p.must(p.open("f", os.O_WRONLY|os.O_TRUNC).Close())
		p.holds("f", "")
		if n, _ := reader.Read(make([]byte, 10)); n != 0 {
			p.Errorf("an older reader got %d bytes", n)
		}
	},
	"name lengths": func(p *place) {
		p.fails("255", p.opens(strings.Repeat("n", 255), os.O_CREATE|os.O_WRONLY), 0)
		p.fails("256", p.opens(strings.Repeat("n", 256), os.O_CREATE|os.O_WRONLY), syscall.ENAMETOOLONG)
		p.fails("folder of 256", os.Mkdir(p.path(strings.Repeat("n", 256)), 0o755), syscall.ENAMETOOLONG)
		p.fails("rename to 256", os.Rename(p.path(strings.Repeat("n", 255)), p.path(strings.Repeat("m", 256))), syscall.ENAMETOOLONG)
		p.fails("path", p.opens(strings.Repeat("d/", 2050), os.O_RDONLY), syscall.ENAMETOOLONG)
		if p.tape { // LTFS counts code points, disks count bytes
			p.fails("255 code points", p.opens(strings.Repeat("ü", 255), os.O_CREATE|os.O_WRONLY), 0)
			p.fails("256 code points", p.opens(strings.Repeat("ü", 256), os.O_CREATE|os.O_WRONLY), syscall.ENAMETOOLONG)
		}
	},
	"names of every kind": func(p *place) {
		want := map[string]bool{}
		for _, name := range oddNames() {
			p.write(name, name)
			want[name] = true
		}
		entries, err := os.ReadDir(p.dir)
		p.must(err)
		for _, e := range entries {
			if !want[e.Name()] {
				p.Errorf("%q was not made", e.Name())
			}
			delete(want, e.Name())
			p.holds(e.Name(), e.Name())
		}
		if len(want) > 0 {
			p.Errorf("missing: %v", want)
		}
		if p.tape {
			p.fails("not UTF-8", p.opens("\xff\xfe", os.O_CREATE|os.O_WRONLY), syscall.EILSEQ)
		}
	},
	"unlink": func(p *place) {
		p.write("f", "x")
		p.mkdir("d")
		p.must(os.Symlink("f", p.path("link")))
		p.fails("folder", syscall.Unlink(p.path("d")), syscall.EISDIR)
		p.fails("missing", syscall.Unlink(p.path("none")), syscall.ENOENT)
		p.fails("file as folder", syscall.Unlink(p.path("f/x")), syscall.ENOTDIR)
		p.must(syscall.Unlink(p.path("link")))
		p.holds("f", "x")
		p.must(syscall.Unlink(p.path("f")))
		p.absent("f")
	},
	"unlinked but open": func(p *place) {
		f := p.open("f", os.O_CREATE|os.O_RDWR)
		_, err := f.WriteString("before")
		p.must(err)
		p.must(os.Remove(p.path("f")))
		_, err = f.WriteString(" after")
		p.must(err)
		got := make([]byte, 12)
		if _, err := f.ReadAt(got, 0); err != nil || string(got) != "before after" {
			p.Errorf("%q, %v", got, err)
		}
		var st syscall.Stat_t
		p.must(syscall.Fstat(int(f.Fd()), &st))
		if st.Nlink != 0 || st.Size != 12 {
			p.Errorf("%d links, %d bytes", st.Nlink, st.Size)
		}
		p.must(f.Truncate(3))
		p.write("f", "another")
		p.must(f.Sync())
		p.holds("f", "another")
	},
	"mkdir and rmdir": func(p *place) {
		p.mkdir("d")
		p.fails("again", os.Mkdir(p.path("d"), 0o755), syscall.EEXIST)
		p.fails("below nothing", os.Mkdir(p.path("none/d"), 0o755), syscall.ENOENT)
		p.write("d/f", "x")
		p.fails("below a file", os.Mkdir(p.path("d/f/x"), 0o755), syscall.ENOTDIR)
		p.fails("not empty", syscall.Rmdir(p.path("d")), syscall.ENOTEMPTY, syscall.EEXIST)
		p.fails("a file", syscall.Rmdir(p.path("d/f")), syscall.ENOTDIR)
		p.fails("dot", syscall.Rmdir(p.path("d/.")), syscall.EINVAL)
		p.must(os.Remove(p.path("d/f")))
		p.must(syscall.Rmdir(p.path("d")))
		p.absent("d")
		p.fails("missing", syscall.Rmdir(p.path("d")), syscall.ENOENT)
	},
	"links of folders": func(p *place) {
		p.mkdir("d")
		if n := p.stat("d").Nlink; n != 2 {
			p.Errorf("an empty folder has %d links", n)
		}
		p.mkdir("d/one")
		p.mkdir("d/two")
		p.write("d/file", "x")
		if n := p.stat("d").Nlink; n != 4 {
			p.Errorf("a folder with two folders has %d links", n)
		}
		p.must(os.Rename(p.path("d/one"), p.path("one")))
		p.must(syscall.Rmdir(p.path("d/two")))
		if n := p.stat("d").Nlink; n != 2 {
			p.Errorf("a folder whose folders have gone has %d links", n)
		}
	},
	"a removed working folder": func(p *place) {
		p.mkdir("d")
		d := p.open("d", os.O_RDONLY)
		p.must(os.Remove(p.path("d")))
		names, err := d.Readdirnames(-1)
		if len(names) > 0 {
			p.Errorf("a removed folder lists %q (%v)", names, err)
		}
		p.fails("create in it", os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/x", d.Fd()), nil, 0o644), syscall.ENOENT)
	},
	"symlink": func(p *place) {
		p.must(os.Symlink("target", p.path("link")))
		p.fails("again", os.Symlink("x", p.path("link")), syscall.EEXIST)
		p.fails("empty", os.Symlink("", p.path("none")), syscall.ENOENT)
		for i, target := range []string{"../a/../b", "/absolute", "with:colon and % and ü", strings.Repeat("t/", 2000)} {
			name := fmt.Sprint("l", i)
			p.must(os.Symlink(target, p.path(name)))
			if got, err := os.Readlink(p.path(name)); err != nil || got != target {
				p.Errorf("%.40q leads to %.40q (%v)", name, got, err)
			}
			if size := p.stat(name).Size; size != int64(len(target)) {
				p.Errorf("a link of %d bytes has size %d", len(target), size)
			}
		}
		p.fails("readlink of a folder", second(os.Readlink(p.dir)), syscall.EINVAL)
		p.fails("dangling", p.opens("link", os.O_RDONLY), syscall.ENOENT)
		p.write("link", "made through it")
		p.holds("target", "made through it")
	},
	"what LTFS does not hold": func(p *place) {
		p.write("f", "x")
		if p.tape {
			p.fails("hard link", os.Link(p.path("f"), p.path("hard")), syscall.EPERM, syscall.ENOTSUP)
			p.fails("fifo", syscall.Mkfifo(p.path("fifo"), 0o644), syscall.EPERM, syscall.ENOTSUP)
			p.must(os.Chmod(p.path("f"), 0o600))
			p.must(os.Chown(p.path("f"), 1000, 1000))
			if st := p.stat("f"); st.Mode&0o7777 != 0o644 || st.Uid == 1000 {
				p.Errorf("mode %o, owner %d", st.Mode, st.Uid)
			}
		}
	},
	"the right to write": func(p *place) {
		p.write("f", "x")
		p.mkdir("d")
		p.must(os.Chmod(p.path("f"), 0o444))
		p.must(os.Chmod(p.path("d"), 0o555))
		if f, d := p.stat("f").Mode&0o777, p.stat("d").Mode&0o777; f != 0o444 || d != 0o555 {
			p.Errorf("modes %o, %o", f, d)
		}
		as := exec.Command("sh", "-c", "echo x >f; mkdir d/x; rm -f f")
		as.Dir = p.dir
		as.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if os.Geteuid() == 0 && p.tape {
			if out, err := as.CombinedOutput(); err == nil || bytes.Count(out, []byte("ermission denied")) != 3 {
				p.Errorf("another user: %v, %s", err, out)
			}
		}
		p.must(os.Chmod(p.path("f"), 0o644))
		p.write("f", "y")
		p.holds("f", "y")
	},
	"an executable": func(p *place) {
		if !p.tape {
			return
		}
		program, err := os.ReadFile("/bin/echo")
		p.must(err)
		p.must(os.WriteFile(p.path("echo"), program, 0o755))
		out, err := exec.Command("/lib64/ld-linux-x86-64.so.2", p.path("echo"), "hello").Output()
		if err == nil && string(out) != "hello\n" {
			p.Errorf("%q", out)
		}
	},
	"times": func(p *place) {
		p.write("f", "x")
		for _, want := range []time.Time{time.Unix(0, 1), time.Unix(1_700_000_000, 123_456_789), time.Unix(-86400*365, 999), time.Unix(9_000_000_000, 0)} {
			p.must(os.Chtimes(p.path("f"), want, want.Add(time.Second)))
			st := p.stat("f")
			if !time.Unix(st.Atim.Unix()).Equal(want) || !time.Unix(st.Mtim.Unix()).Equal(want.Add(time.Second)) {
				p.Errorf("set %v: read as %v and %v", want, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix()))
			}
		}
		p.must(os.Chtimes(p.path("f"), time.Time{}, time.Unix(7, 0)))
		if st := p.stat("f"); st.Atim.Sec != 9_000_000_000 || st.Mtim.Sec != 7 {
			p.Errorf("only the second time was to change: %v, %v", st.Atim, st.Mtim)
		}
	},
	"times that changes set": func(p *place) {
		p.mkdir("d")
		p.write("d/f", "x")
		old := time.Unix(1000, 0)
		age := func() {
			p.must(os.Chtimes(p.path("d/f"), old, old))
			p.must(os.Chtimes(p.path("d"), old, old))
		}
		young := func(name string) bool { return p.stat(name).Mtim.Sec > 1_000_000 }
		for _, c := range []struct {
			what         string
			do           func() error
			file, folder bool
		}{
			{"write", func() error { return os.WriteFile(p.path("d/f"), []byte("y"), 0) }, true, false},
			{"truncate", func() error { return os.Truncate(p.path("d/f"), 100) }, true, false},
			{"create", func() error { return os.WriteFile(p.path("d/g"), nil, 0o644) }, false, true},
			{"unlink", func() error { return os.Remove(p.path("d/g")) }, false, true},
			{"mkdir", func() error { return os.Mkdir(p.path("d/s"), 0o755) }, false, true},
			{"rename", func() error { return os.Rename(p.path("d/s"), p.path("d/t")) }, false, true},
			{"rmdir", func() error { return os.Remove(p.path("d/t")) }, false, true},
			{"chmod", func() error { return os.Chmod(p.path("d/f"), 0o444) }, false, false},
			{"read", func() error { return second(os.ReadFile(p.path("d/f"))) }, false, false},
		} {
			age()
			p.must(c.do())
			if f, d := young("d/f"), young("d"); f != c.file || d != c.folder {
				p.Errorf("%s: file changed %v, folder changed %v", c.what, f, d)
			}
		}
	},
	"many open files": func(p *place) {
		var files []*os.File
		for i := range 300 {
			files = append(files, p.open(fmt.Sprint(i), os.O_CREATE|os.O_RDWR))
		}
		for i, f := range files {
			_, err := fmt.Fprintf(f, "number %d", i)
			p.must(err)
		}
		for i := range files {
			p.holds(fmt.Sprint(i), fmt.Sprintf("number %d", i))
		}
	},
	"deep folders": func(p *place) {
		deep := strings.Repeat("d/", 200)
		p.must(os.MkdirAll(p.path(deep), 0o755))
		p.write(deep+"f", "deep")
		p.holds(deep+"f", "deep")
		p.must(os.Rename(p.path("d/d"), p.path("moved")))
		p.holds("moved/"+strings.Repeat("d/", 198)+"f", "deep")
		p.must(os.RemoveAll(p.path("moved")))
	},
	"locks": func(p *place) {
		a, b := p.open("f", os.O_CREATE|os.O_RDWR), p.open("f", os.O_RDWR)
		p.must(syscall.Flock(int(a.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
		p.fails("second lock", syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
		p.must(syscall.Flock(int(a.Fd()), syscall.LOCK_UN))
		p.must(syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	},
	"room": func(p *place) {
		var before, after syscall.Statfs_t
		p.must(syscall.Statfs(p.dir, &before))
		p.must(os.WriteFile(p.path("f"), make([]byte, 1<<20), 0o644))
		f := p.open("f", os.O_RDWR)
		p.must(f.Sync())
		p.must(syscall.Statfs(p.dir, &after))
		if p.tape && int64(before.Bfree-after.Bfree)*after.Bsize < 1<<20 {
			p.Errorf("a MiB took %d of %d blocks", before.Bfree-after.Bfree, before.Bfree)
		}
		if after.Blocks == 0 || after.Bavail > after.Blocks {
			p.Errorf("%+v", after)
		}
	},
}

func second(_ any, err error) error { return err }

// oddNames are names with bytes of every kind that LTFS can hold.
func oddNames() []string {
	names := []string{" ", "  lead", "trail ", ".hidden", "...", "-rf", "a:b", "c:", "100%", "%41", "a\tb", "a\nb", "a\\b", `"'`, "&<>;", "ü", "u\u0308", "日本", "😀",
		"\u00a0", "\u200b", "\ufffd", "\U0010fffd", "\ufffe", "\u0085", "\x7f", "CON", "a.", "*?[]{}", "$(x)`y`"}
	for c := byte(1); c < 0x20; c++ {
		names = append(names, fmt.Sprintf("%c control %d", c, c))
	}
	return names
}
