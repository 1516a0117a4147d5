package vm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn"
)

func TestArguments(t *testing.T) {
	args := arguments("/cache/x", Options{Dir: "/d,1", Disks: []string{"/a,b", "/c"}, CPUs: 2}, "tcg")
	line := strings.Join(args, " ")
	for _, want := range []string{"-accel tcg ", "-smp 2 ", "-m 1536 ", "path=/d,,1,mount_tag=host", "file=/a,,b -device virtio-blk-pci,drive=d1", "file=/c -device virtio-blk-pci,drive=d2",
		"readonly=on,file=/cache/x/root.ext4", "-kernel /cache/x/vmlinux -initrd /cache/x/initrd", "-nodefaults"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	if root, disk := strings.Index(line, "drive=d0"), strings.Index(line, "drive=d1"); root > disk {
		t.Error("the root is not the first disk")
	}
	if slices.Contains(args, "-netdev") || strings.Contains(line, "kvm") {
		t.Error("a machine has a network or an accelerator that nobody asked for")
	}
}

func TestAccelerator(t *testing.T) {
	t.Setenv("CAIRN_VM_ACCEL", "")
	if a := accelerator(); !strings.HasPrefix(a, "tcg") {
		t.Errorf("chose %s by itself", a)
	}
	t.Setenv("CAIRN_VM_ACCEL", "kvm")
	if a := accelerator(); a != "kvm" {
		t.Errorf("chose %s", a)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name, output string
		emulator     int
		exit         int
		good         bool
	}{
		{"passed", "ok\n\n@@EXIT 0 3.10\n", 1, 0, true},
		{"failed", "bad\n\n@@EXIT 1 3.10\n", 3, 1, true},
		{"high status", "\n@@EXIT 200 3.10\n", 255, 200, true},
		{"said twice, the last counts", "x\n@@EXIT 0 1\ny\n\n@@EXIT 4 3.10\n", 9, 4, true},
		{"killed", "ok\n", -1, 0, false},
		{"reset", "ok\n", 0, 0, false},
		{"killed after the trailer", "\n@@EXIT 0 3.10\n", -1, 0, false},
		{"statuses differ", "\n@@EXIT 0 3.10\n", 3, 0, false},
		{"inside a line", "say @@EXIT 0 3.10\n", 1, 0, false},
		{"cut", "ok\n\n@@EXIT 0", 1, 0, false},
		{"no number", "ok\n\n@@EXIT x 3.10\n", 1, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := judge(c.output, c.emulator)
			if c.good != (err == nil) || c.good && v.Exit != c.exit || !c.good && !errors.Is(err, ErrNoVerdict) {
				t.Errorf("got %+v, %v", v, err)
			}
		})
	}
}

func TestCases(t *testing.T) {
	got := Cases("noise\n=== RUN   TestA\n    a_test.go:1: hello\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n=== RUN   TestB/sub\n    --- FAIL: TestB/sub (0.00s)\n--- FAIL: TestB (0.10s)\n" +
		"=== RUN   TestC\n--- SKIP: TestC (0.00s)\n=== RUN   TestD\npanic: oh\n")
	var brief []string
	for _, c := range got {
		brief = append(brief, c.Name+" "+c.Status)
	}
	if want := []string{"TestA PASS", "TestB FAIL", "TestC SKIP", "TestD FAIL"}; !slices.Equal(brief, want) {
		t.Fatalf("got %q", brief)
	}
	if !strings.Contains(got[0].Log, "hello") || strings.Contains(got[0].Log, "ended in") || !strings.Contains(got[3].Log, "panic: oh") || !strings.Contains(got[3].Log, "ended in this test") {
		t.Errorf("logs %q, %q", got[0].Log, got[3].Log)
	}
}

func TestFind(t *testing.T) {
	cache := t.TempDir()
	_, err := Find(cache, "stable")
	if cairn.KindOf(err) != cairn.KindNotFound || !strings.Contains(cairn.HintOf(err), "make vm-prepare KERNEL=stable") {
		t.Errorf("got %v", err)
	}
	dir := filepath.Join(cache, "stable-1")
	versions := "kernel: 6.12.1+deb13-amd64\nzfs: 2.3.9-0+deb13u1\nmissing: dm-dust\n"
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "versions"), []byte(versions), 0o600), os.Symlink("stable-1", filepath.Join(cache, "stable"))); err != nil {
		t.Fatal(err)
	}
	im, err := Find(cache, "stable")
	if err != nil || im.Versions["kernel"] != "6.12.1+deb13-amd64" || !strings.Contains(im.String(), "OpenZFS 2.3.9-0+deb13u1") || !strings.Contains(im.String(), "without modules dm-dust") {
		t.Errorf("got %v, %v", im, err)
	}
}

func TestCacheDir(t *testing.T) {
	t.Setenv("CAIRN_VM_CACHE", "")
	if dir := CacheDir(); !strings.HasSuffix(dir, "/.work/vm") || strings.Contains(dir, "/test/") {
		t.Errorf("machines lie in %s", dir)
	}
	t.Setenv("CAIRN_VM_CACHE", "/elsewhere")
	if dir := CacheDir(); dir != "/elsewhere" {
		t.Errorf("machines lie in %s", dir)
	}
}
