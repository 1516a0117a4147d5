package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"cairn"
)

// Options are the choices of one boot.
type Options struct {
	Dir    string   // of the host, shared with the guest as /host; the machine keeps its files there
	Script string   // run by bash in /host, as root
	Disks  []string // files of the host that become /dev/vdb, /dev/vdc, … in this order

	CPUs   int // default 1: more help only what is truly parallel
	Memory int // MiB; default 1536
}

// Machine is a running guest. Its methods may be called from several goroutines.
type Machine struct {
	dir    string
	cancel context.CancelFunc
	done   chan struct{} // closed when the emulator has ended; then waitErr is set
	cmd    *exec.Cmd
	err    error
}

// The files of a machine in Options.Dir.
const (
	scriptFile = "run"
	outputFile = "output" // what the script prints, as it comes
	kernelFile = "kernel" // what the guest's kernel prints
	errorsFile = "emulator"
)

// Emulator is the program that runs machines.
const Emulator = "qemu-system-x86_64"

// kernelLine makes the guest quick and quiet, and end rather than hang.
const kernelLine = "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=on rcupdate.rcu_expedited=1"

// arguments are the emulator's. No network, no display, nothing by default.
func arguments(image string, o Options, accel string) []string {
	args := []string{"-accel", accel, "-M", "q35", "-cpu", "max", "-smp", fmt.Sprint(max(1, o.CPUs)), "-m", fmt.Sprint(memory(o)),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(image, "vmlinux"), "-initrd", filepath.Join(image, "initrd"), "-append", kernelLine,
		"-serial", "file:" + escape(filepath.Join(o.Dir, kernelFile)),
		"-device", "virtio-serial-pci", "-chardev", "file,id=out,path=" + escape(filepath.Join(o.Dir, outputFile)), "-device", "virtconsole,chardev=out",
		"-virtfs", "local,path=" + escape(o.Dir) + ",mount_tag=host,security_model=none,multidevs=remap",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "virtio-rng-pci",
		"-drive", "if=none,id=d0,format=raw,readonly=on,file=" + escape(filepath.Join(image, "root.ext4")), "-device", "virtio-blk-pci,drive=d0"}
	for i, disk := range o.Disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,cache=writeback,discard=unmap,file=%s", i+1, escape(disk)),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i+1))
	}
	return args
}

func memory(o Options) int {
	if o.Memory == 0 {
		return 1536
	}
	return o.Memory
}

// escape makes a path safe inside one of the emulator's comma-separated options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// accelerator is what the user names, else interpretation.
func accelerator() string {
	if a := os.Getenv("CAIRN_VM_ACCEL"); a != "" {
		return a
	}
	return "tcg,thread=multi"
}

// Start boots the machine. It ends when the script has, when ctx does, or with this
// process; call Wait or PowerCut in any case.
func (im *Image) Start(ctx context.Context, o Options) (*Machine, error) {
	fail := func(kind cairn.Kind, err error, hint string) (*Machine, error) {
		return nil, &cairn.Error{Op: "start virtual machine", Subject: im.Dir, Kind: kind, Err: err, Hint: hint}
	}
	program, err := exec.LookPath(Emulator)
	if err != nil {
		return fail(cairn.KindUnsupported, err, "`make vm-prepare` installs it")
	}
	if err := os.WriteFile(filepath.Join(o.Dir, scriptFile), []byte(o.Script), 0o644); err != nil {
		return fail(cairn.KindIO, err, "")
	}
	log, err := os.Create(filepath.Join(o.Dir, errorsFile))
	if err != nil {
		return fail(cairn.KindIO, err, "")
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{dir: o.Dir, cancel: cancel, done: make(chan struct{}), cmd: exec.CommandContext(ctx, program, arguments(im.Dir, o, accelerator())...)}
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go m.run(started)
	err = errors.Join(<-started, log.Close())
	if err != nil {
		cancel()
		return fail(cairn.KindOther, err, "")
	}
	return m, nil
}

// run owns the emulator. The kernel sends Pdeathsig when the thread that started a
// child ends, so this goroutine keeps its thread until the child has.
func (m *Machine) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(m.done)
	defer m.cancel()
	err := m.cmd.Start()
	started <- err
	if err == nil {
		m.err = m.cmd.Wait()
	}
}

// Output is what the script has printed so far.
func (m *Machine) Output() string {
	text, err := os.ReadFile(filepath.Join(m.dir, outputFile))
	if err != nil {
		return ""
	}
	return string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
}

// KernelLog is what the guest's kernel and boot stages have printed so far.
func (m *Machine) KernelLog() string {
	text, err := os.ReadFile(filepath.Join(m.dir, kernelFile))
	if err != nil {
		return ""
	}
	return string(text)
}

// WaitFor returns when the script has printed a whole line that begins with the
// text; it fails when the machine ends or ctx does before.
func (m *Machine) WaitFor(ctx context.Context, text string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ended := false; ; {
		if _, after, found := strings.Cut("\n"+m.Output(), "\n"+text); found && strings.Contains(after, "\n") {
			return nil
		}
		if ended {
			return m.failed("wait for "+fmt.Sprintf("%q", text)+" of virtual machine", errors.New("it ended before"))
		}
		select {
		case <-tick.C:
		case <-m.done:
			ended = true // one more look at what it printed last
		case <-ctx.Done():
			return m.failed("wait for "+fmt.Sprintf("%q", text)+" of virtual machine", ctx.Err())
		}
	}
}

// PowerCut ends the machine as a power cut does, and returns when it has ended.
// KindInvalid when it had ended by itself: then nothing was cut.
func (m *Machine) PowerCut() error {
	select {
	case <-m.done:
		return &cairn.Error{Op: "cut power of virtual machine", Subject: m.dir, Kind: cairn.KindInvalid, Err: errors.New("it had ended before")}
	default:
	}
	m.cancel()
	<-m.done
	return nil
}

// Wait returns the verdict of the script when the machine has ended.
func (m *Machine) Wait() (Verdict, error) {
	<-m.done
	code := -1
	var exit *exec.ExitError
	switch {
	case m.err == nil:
		code = 0
	case errors.As(m.err, &exit):
		code = exit.ExitCode()
	}
	v, err := judge(m.Output(), code)
	if err != nil {
		return v, m.failed("run virtual machine", err)
	}
	return v, nil
}

func (m *Machine) failed(op string, err error) error {
	log, readErr := os.ReadFile(filepath.Join(m.dir, errorsFile))
	return &cairn.Error{Op: op, Subject: m.dir, Kind: cairn.KindOther,
		Err: errors.Join(err, readErr, fmt.Errorf("output ends %q; kernel log ends %q; emulator says %q", end(m.Output()), end(m.KernelLog()), end(string(log))))}
}

func end(s string) string { return s[max(0, len(s)-600):] }
