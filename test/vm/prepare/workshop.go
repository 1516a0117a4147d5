package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"cairn/test/vm"
)

// workshop is a folder in which one machine is built, and a throw-away apt that
// knows the pair's suites without touching this machine's own apt.
type workshop struct {
	ctx   context.Context
	dir   string
	cache string
	log   *os.File // what the tools print, kept for a look after a failure; locked, so that one builds at a time
}

// room is what building takes: two roots, a kernel and the module's objects.
const room = 4 << 30

func newWorkshop(ctx context.Context, cache string) (*workshop, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	parent := "/dev/shm"
	var st syscall.Statfs_t
	if err := syscall.Statfs(parent, &st); err != nil || int64(st.Bavail)*st.Bsize < room {
		parent = cache
	}
	log, err := os.OpenFile(filepath.Join(cache, "prepare.log"), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	// One at a time: whoever waited finds what the other has built.
	if err := errors.Join(syscall.Flock(int(log.Fd()), syscall.LOCK_EX), log.Truncate(0)); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	dir, err := os.MkdirTemp(parent, "cairn-vm-")
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &workshop{ctx: ctx, dir: dir, cache: cache, log: log}, nil
}

// close removes the workshop and gives the cache to whoever called sudo.
func (w *workshop) close() error {
	err := os.RemoveAll(w.dir)
	if user := os.Getenv("SUDO_UID"); user != "" {
		err = errors.Join(err, exec.CommandContext(context.WithoutCancel(w.ctx), "chown", "-R", "-h", user+":"+os.Getenv("SUDO_GID"), w.cache).Run())
	}
	return errors.Join(err, w.log.Close())
}

func (w *workshop) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// step tells what is done next and returns what tells how long it took.
func step(format string, args ...any) func() {
	what, started := fmt.Sprintf(format, args...), time.Now()
	return func() { fmt.Printf("vm-prepare: %s: %.0f s\n", what, time.Since(started).Seconds()) }
}

// run runs a tool in the workshop. Its output goes to the log; the error has the
// last lines of it. A cancelled context ends the tool and all its children.
func (w *workshop) run(name string, args ...string) error {
	_, err := w.pipe(nil, name, args...)
	return err
}

// pipe is run with an input, and returns what the tool printed.
func (w *workshop) pipe(in io.Reader, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(w.ctx, name, args...)
	var out, all bytes.Buffer
	cmd.Dir, cmd.Stdin = w.dir, in
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "TMPDIR=/tmp") // a folder that chroots have too
	cmd.Stdout = &out
	cmd.Stderr = io.MultiWriter(w.log, &all)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	fmt.Fprintf(w.log, "+ %s %s\n", name, strings.Join(args, " "))
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	_, _ = w.log.Write(out.Bytes())
	return nil, fmt.Errorf("%s: %w; %s ends with:\n%s", name, err, w.log.Name(), tail(append(out.Bytes(), all.Bytes()...), 15))
}

func tail(text []byte, lines int) string {
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// tools installs what building and running a machine needs and is not there.
func (w *workshop) tools() error {
	need := map[string]string{"mmdebstrap": "mmdebstrap", vm.Emulator: "qemu-system-x86", "mke2fs": "e2fsprogs", "unshare": "util-linux", "apt-get": "apt"}
	var missing []string
	for tool, pkg := range need {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	defer step("install %s", strings.Join(missing, " "))()
	if err := w.run("apt-get", "update", "-q"); err != nil {
		return err
	}
	return w.run("apt-get", append([]string{"install", "-qy", "--no-install-recommends"}, missing...)...)
}

// mirror is where this machine's apt gets its own release from.
func (w *workshop) mirror() (string, error) {
	if m := os.Getenv("CAIRN_VM_MIRROR"); m != "" {
		return m, nil
	}
	osRelease, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^ID=debian$`).Find(osRelease)
	codename := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\w+)$`).FindSubmatch(osRelease)
	if m != nil && codename != nil {
		out, err := w.pipe(nil, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main", "Release: "+string(codename[1]))
		if err != nil {
			return "", err
		}
		if uri, _, _ := strings.Cut(string(out), "\n"); uri != "" {
			return uri, nil
		}
	}
	return "", errors.New("this machine's apt names no mirror of Debian: set CAIRN_VM_MIRROR to the address of one")
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// sources writes the apt configuration of both roots, and reads the lists.
func (w *workshop) sources(p pair) error {
	defer step("read the lists of %s", p.suite)()
	mirror, err := w.mirror()
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, suite := range []string{p.release, p.suite} {
		line := fmt.Sprintf("deb [signed-by=%s] %s %s main contrib\n", keyring, mirror, suite)
		if !strings.Contains(list.String(), line) {
			list.WriteString(line)
		}
	}
	for _, dir := range []string{"apt/lists/partial", "apt/archives/partial"} {
		if err := os.MkdirAll(w.path(dir), 0o755); err != nil {
			return err
		}
	}
	err = errors.Join(os.WriteFile(w.path("sources.list"), []byte(list.String()), 0o644), os.WriteFile(w.path("apt/status"), nil, 0o644))
	if err != nil {
		return err
	}
	_, err = w.apt("apt-get", "update", "-q")
	return err
}

// apt runs one of apt's commands on the workshop's own lists.
func (w *workshop) apt(command string, args ...string) ([]byte, error) {
	options := []string{"-o", "Dir::State::lists=" + w.path("apt/lists"), "-o", "Dir::State::status=" + w.path("apt/status"),
		"-o", "Dir::Cache::archives=" + w.path("apt/archives"), "-o", "Dir::Cache::pkgcache=" + w.path("apt/pkgcache.bin"), "-o", "Dir::Cache::srcpkgcache=" + w.path("apt/srcpkgcache.bin"),
		"-o", "Dir::Etc::sourcelist=" + w.path("sources.list"), "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "APT::Sandbox::User=root"}
	return w.pipe(nil, command, append(options, args...)...)
}

// unpack downloads packages of the given version and unpacks them into a folder.
func (w *workshop) unpack(into, version string, packages ...string) error {
	for _, p := range packages {
		if _, err := w.apt("apt-get", "download", p+"="+version); err != nil {
			return err
		}
		debs, err := filepath.Glob(w.path(p + "_*.deb"))
		if err != nil || len(debs) != 1 {
			return fmt.Errorf("apt-get download left %d files of %s", len(debs), p)
		}
		if err := errors.Join(os.MkdirAll(into, 0o755), w.run("dpkg", "-x", debs[0], into), os.Remove(debs[0])); err != nil {
			return err
		}
	}
	return nil
}

var kernelPackage = regexp.MustCompile(`^linux-(headers|binary|modules|image)-[0-9].*-amd64$`)

// choose applies the rule: the suite's newest OpenZFS, and the newest kernel there
// that its metadata allows.
func (w *workshop) choose(p pair) (choice, error) {
	out, err := w.apt("apt-cache", "madison", "zfs-dkms")
	if err != nil {
		return choice{}, err
	}
	zfs := ""
	for _, o := range parseMadison(string(out)) {
		if o.suite == p.suite && zfs == "" { // madison lists newest first
			zfs = o.version
		}
	}
	if zfs == "" {
		return choice{}, fmt.Errorf("%s offers no zfs-dkms", p.suite)
	}
	l, err := w.limits(zfs)
	if err != nil {
		return choice{}, err
	}
	offers, err := w.kernels()
	if err != nil {
		return choice{}, err
	}
	c, err := chooseKernel(offers, p.suite, l)
	c.pair, c.zfs = p, zfs
	if err == nil {
		fmt.Printf("vm-prepare: OpenZFS %s allows kernels %v to %v; chose kernel %s %s\n", zfs, l.minimum, l.maximum, c.release, c.version)
	}
	return c, err
}

func (w *workshop) limits(zfs string) (limits, error) {
	if err := w.unpack(w.path("source"), zfs, "zfs-dkms"); err != nil {
		return limits{}, err
	}
	files, err := filepath.Glob(w.path("source/usr/src/zfs-*/META"))
	if err != nil || len(files) != 1 {
		return limits{}, fmt.Errorf("zfs-dkms %s holds %d META files", zfs, len(files))
	}
	meta, err := os.ReadFile(files[0])
	if err != nil {
		return limits{}, err
	}
	return parseMeta(string(meta))
}

func (w *workshop) kernels() ([]offer, error) {
	out, err := w.apt("apt-cache", "pkgnames", "linux-")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range strings.Fields(string(out)) {
		if kernelPackage.MatchString(n) {
			names = append(names, n)
		}
	}
	if out, err = w.apt("apt-cache", append([]string{"madison"}, names...)...); err != nil {
		return nil, err
	}
	return parseMadison(string(out)), nil
}
