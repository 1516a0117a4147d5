package vm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/test/vm"
)

// machine gives the image that the environment asks for.
func machine(t *testing.T) *vm.Image {
	t.Helper()
	if os.Getenv("CAIRN_VM") != "1" {
		t.Skip("starts virtual machines: make test-vm")
	}
	kernel := os.Getenv("CAIRN_VM_KERNEL")
	if kernel == "" {
		kernel = vm.DefaultKernel
	}
	im, err := vm.Find(vm.CacheDir(), kernel)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// program builds the guest's tests into the folder shared with it.
func program(t *testing.T, dir string) {
	t.Helper()
	build(t, filepath.Join(dir, "guest.test"), "test", "./guest", "-c")
}

// build builds a package, static.
func build(t *testing.T, file, how, pkg string, flags ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{how}, flags...), "-o", file, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// sparse makes a disk.
func sparse(t *testing.T, mib int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, mib<<20)); err != nil {
		t.Fatal(err)
	}
	return file
}

func start(t *testing.T, im *vm.Image, o vm.Options) *vm.Machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Minute)
	m, err := im.Start(ctx, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_, _ = m.Wait() // whoever wanted its verdict has it
	})
	return m
}

// boot runs a script to its end.
func boot(t *testing.T, im *vm.Image, o vm.Options) vm.Verdict {
	t.Helper()
	began := time.Now()
	v, err := start(t, im, o).Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the machine ran %.1f s, %.1f s by its own clock", time.Since(began).Seconds(), v.Uptime)
	return v
}

// Every test of the guest runs inside the machine and is reported here; none may
// be left out. Those of streams and of the ZFS place take machines of their own, below.
func TestGuest(t *testing.T) {
	guest(t, "", "^Test(Power(Write|Check)|Streams.*|ZFS.*)$", 8)
}

// Those tests of the guest that somebody asks for, in one machine.
func TestChosen(t *testing.T) {
	run := os.Getenv("CAIRN_VM_TESTS")
	if run == "" {
		t.Skip("runs what is chosen: make test-vm RUN=PATTERN")
	}
	guest(t, run, "^$", 1)
}

// Streams of real OpenZFS across kinds of datasets.
func TestStreams(t *testing.T) { guest(t, "^TestStreams", "^$", 3) }

// The place of ZFS datasets on OpenZFS: the cases that its fake passes, the rules of
// the conformance suite, rights, stopped programs.
func TestZFSPlace(t *testing.T) { guest(t, "^TestZFS", "^TestZFS(Cases|PowerStep)$", 12) }

func TestZFSCases(t *testing.T) { guest(t, "^TestZFSCases$", "^$", 1) }

// guest runs the tests of the guest that match, at least so many, and reports them.
func guest(t *testing.T, run, skip string, least int) {
	im := machine(t)
	t.Logf("%s", im)
	dir := t.TempDir()
	program(t, dir)
	build(t, filepath.Join(dir, "cairn"), "build", "cairn/cmd/cairn")
	v := boot(t, im, vm.Options{Dir: dir, Disks: []string{sparse(t, 4096)}, Memory: 2048,
		Script: fmt.Sprintf("export CAIRN_VM_RELEASE=%s CAIRN_VM_ZFS=%s CAIRN_SCALE=%s\n./guest.test -test.v -test.run '%s' -test.skip '%s'\n",
			im.Versions["kernel"], im.Versions["zfs"], os.Getenv("CAIRN_SCALE"), run, skip)})
	cases := vm.Cases(v.Output)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Log(c.Log)
			if c.Status != "PASS" {
				t.Errorf("%s in the machine", c.Status)
			}
		})
	}
	if v.Exit != 0 || len(cases) < least {
		t.Errorf("%d tests ran, exit status %d:\n%s", len(cases), v.Exit, v.Output)
	}
}

// The scripts about ZFS, which run on a fake of it everywhere, run on OpenZFS: the
// real program, daemons and all.
func TestScriptsOnOpenZFS(t *testing.T) {
	im := machine(t)
	dir := t.TempDir()
	build(t, filepath.Join(dir, "script.test"), "test", "../script", "-c")
	scripts, err := filepath.Glob("../script/testdata/zfs*.txtar")
	if err != nil || len(scripts) < 3 {
		t.Fatal(scripts, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "testdata"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range scripts {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "testdata", filepath.Base(file)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	onOpenZFS(t, im, dir, "./script.test -test.parallel 1 -test.run TestScripts/zfs", "--- PASS: TestScripts/zfs", len(scripts))
}

// The cells of the matrix that have a ZFS end, on OpenZFS: every way of every pair in
// one place, and one way of one pair over each transport.
func TestMatrixOnOpenZFS(t *testing.T) {
	im := machine(t)
	dir := t.TempDir()
	build(t, filepath.Join(dir, "matrix.test"), "test", "../matrix", "-c")
	onOpenZFS(t, im, dir, "./matrix.test -test.run 'TestMatrix/(zvol|filesystem|.*-zfs-)'", "--- PASS: TestMatrix/", 25)
}

// onOpenZFS runs a test program of the folder with the machine's ZFS, whose pools lie
// on a disk of their own, and wants so many lines of passed tests.
func onOpenZFS(t *testing.T, im *vm.Image, dir, command, passed string, least int) {
	t.Helper()
	v := boot(t, im, vm.Options{Dir: dir, Disks: []string{sparse(t, 4096)}, Memory: 2048,
		Script: "modprobe zfs\nmkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && export TMPDIR=/mnt CAIRN_ZFS=real\n" + command + " -test.v\n"})
	if n := strings.Count(v.Output, passed); v.Exit != 0 || n < least {
		t.Errorf("%d passed, exit status %d\n%s", n, v.Exit, v.Output)
	}
	for line := range strings.Lines(v.Output) {
		if strings.Contains(line, "--- ") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
}

// Statuses come back, a failing test is seen to fail, and a machine that resets
// itself has no verdict.
func TestVerdicts(t *testing.T) {
	im := machine(t)
	dir := t.TempDir()
	program(t, dir)
	v := boot(t, im, vm.Options{Dir: dir, Script: "./guest.test -test.v -test.run '^TestPowerCheck$'\necho status $?\nexit 200\n"})
	if cases := vm.Cases(v.Output); v.Exit != 200 || !strings.Contains(v.Output, "\nstatus 1\n") || len(cases) != 1 || cases[0].Status != "FAIL" {
		t.Errorf("exit status %d, cases %+v, output %q", v.Exit, cases, v.Output)
	}
	m := start(t, im, vm.Options{Dir: t.TempDir(), Script: "echo going\necho b >/proc/sysrq-trigger\nsleep 60\n"})
	if v, err := m.Wait(); !errors.Is(err, vm.ErrNoVerdict) || !strings.Contains(v.Output, "going\n") {
		t.Errorf("after a reset: %+v, %v", v, err)
	}
	if err := m.PowerCut(); cairn.KindOf(err) != cairn.KindInvalid {
		t.Errorf("the power of an ended machine can be cut: %v", err)
	}
}

// powerCut lets the machine write until the line comes, cuts its power, boots it
// again on the same disk and returns how the look at it went.
func powerCut(t *testing.T, im *vm.Image, faults volume.Fault, line string) vm.Verdict {
	t.Helper()
	disk, dir := sparse(t, 512), t.TempDir()
	program(t, dir)
	m := start(t, im, vm.Options{Dir: dir, Disks: []string{disk}, Script: fmt.Sprintf("CAIRN_FAULTS=%d ./guest.test -test.v -test.run '^TestPowerWrite$'\n", faults)})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := m.WaitFor(ctx, line); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerCut(); err != nil {
		t.Fatal(err)
	}
	flushed, captured := last(m.Output(), "FLUSHED"), last(m.Output(), "CAPTURED")
	t.Logf("the power went after FLUSHED %d, CAPTURED %d", flushed, captured)
	second := t.TempDir()
	program(t, second)
	return boot(t, im, vm.Options{Dir: second, Disks: []string{disk},
		Script: fmt.Sprintf("CAIRN_FLUSHED=%d CAIRN_CAPTURED=%d ./guest.test -test.v -test.run '^TestPowerCheck$'\n", flushed, captured)})
}

// last is the highest number that was told after a word in a whole line.
func last(output, word string) (n uint64) {
	for _, m := range regexp.MustCompile(`(?m)^`+word+` (\d+)\n`).FindAllStringSubmatch(output, -1) {
		v, _ := strconv.ParseUint(m[1], 10, 64) // digits
		n = max(n, v)
	}
	return n
}

// After a power cut every flushed write is there, every reported snapshot reads
// what it read, and the change sets know what was written since.
func TestPowerCut(t *testing.T) {
	if v := powerCut(t, machine(t), 0, "CAPTURED 448"); v.Exit != 0 {
		t.Errorf("exit status %d\n%s", v.Exit, v.Output)
	}
}

// An engine that reports a snapshot before its record is durable is caught by the
// same cut.
func TestPowerCutCatchesFault(t *testing.T) {
	v := powerCut(t, machine(t), volume.FaultSkipCatalogSync, "CAPTURED 192")
	if v.Exit != 1 || !strings.Contains(v.Output, "snapshots that were reported are there") {
		t.Errorf("exit status %d: the planted fault was not caught\n%s", v.Exit, v.Output)
	}
}

// The power goes at moments of a ZFS step: each time the next run makes good what was
// begun. What had reached the disk of a stream is not sent again. CAIRN_SCALE=full
// asks for more moments.
func TestPowerCutsOfZFSStep(t *testing.T) {
	im := machine(t)
	cuts := []string{"receive 5000000 synced", "hold after", "bookmark after", "destroy after", "receive 5000000", ""}
	if os.Getenv("CAIRN_SCALE") == "full" {
		cuts = slices.Insert(cuts, 1, "receive after", "hold before", "bookmark before", "destroy before", "release before", "release after")
	}
	disks := []string{sparse(t, 256), sparse(t, 256)}
	for i, cut := range cuts {
		last := "nothing"
		if i > 0 {
			last = cuts[i-1]
		}
		t.Run("after "+last, func(t *testing.T) { powerStep(t, im, disks, cut, strings.TrimPrefix(last, "nothing")) })
	}
}

// powerStep boots, lets what the last cut left be made good, and cuts the power at the
// next moment, if there is one.
func powerStep(t *testing.T, im *vm.Image, disks []string, cut, last string) {
	dir := t.TempDir()
	program(t, dir)
	o := vm.Options{Dir: dir, Disks: disks, Script: fmt.Sprintf("CAIRN_CUT='%s' CAIRN_CUT_LAST='%s' ./guest.test -test.v -test.run '^TestZFSPowerStep$'\n", cut, last)}
	if cut == "" {
		if v := boot(t, im, o); v.Exit != 0 {
			t.Errorf("exit status %d\n%s", v.Exit, v.Output)
		}
		return
	}
	m := start(t, im, o)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := m.WaitFor(ctx, "CUT"); err != nil {
		t.Fatal(err)
	}
	if err := m.PowerCut(); err != nil {
		t.Fatal(err)
	}
	t.Log(m.Output())
}

// A machine does not outlive the process that started it, however that ends.
func TestMachineEndsWithItsStarter(t *testing.T) {
	im := machine(t)
	if dir := os.Getenv("CAIRN_VM_ORPHAN"); dir != "" { // this is the process that will be killed
		v := boot(t, im, vm.Options{Dir: dir, Script: "echo going\nsleep 600\n"})
		t.Fatalf("nobody killed this process: %+v", v)
	}
	dir := t.TempDir()
	starter := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestMachineEndsWithItsStarter$")
	starter.Env = append(os.Environ(), "CAIRN_VM_ORPHAN="+dir)
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, "the machine is up", func() bool {
		out, _ := os.ReadFile(filepath.Join(dir, "output"))
		return strings.Contains(string(out), "going")
	})
	if !running(t, dir) {
		t.Fatal("no process names the machine's folder")
	}
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait() // it was killed
	within(t, "the machine is gone", func() bool { return !running(t, dir) })
}

func within(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after two minutes: %s", what)
		}
	}
}

// running tells whether an emulator was called with the folder.
func running(t *testing.T, dir string) bool {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range lines {
		line, _ := os.ReadFile(file) // the process may have ended
		if strings.HasPrefix(filepath.Base(strings.Split(string(line), "\x00")[0]), vm.Emulator) && strings.Contains(string(line), dir) {
			return true
		}
	}
	return false
}
