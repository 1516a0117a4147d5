package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// guestPackages are the tools of the machine, beside OpenZFS's.
var guestPackages = []string{"bash", "btrfs-progs", "busybox-static", "dmsetup", "e2fsprogs", "fdisk", "fio", "iproute2", "kmod", "lsscsi",
	"mt-st", "mtx", "nbd-client", "openssh-client", "openssh-server", "procps", "sg3-utils", "thin-provisioning-tools", "udev", "xfsprogs", "zfsutils-linux"}

// guestModules are loadable in the machine, each with what it needs. What a kernel
// does not have is named when the machine is built.
var guestModules = []string{"zfs", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_rng", "9p", "9pnet_virtio", "overlay", "ext4", "xfs", "btrfs", "vfat",
	"squashfs", "erofs", "isofs", "loop", "nbd", "ublk_drv", "fuse", "cuse", "dm-mod", "dm-snapshot", "dm-era", "dm-thin-pool", "dm-flakey", "dm-log-writes",
	"dm-delay", "dm-dust", "dm-zero", "dm-clone", "dm-crypt", "dm-integrity", "dm-verity", "dm-writecache", "raid1", "null_blk", "brd", "zram",
	"scsi_debug", "st", "sg", "sd_mod", "ch", "sr_mod", "iscsi_tcp", "target_core_mod", "target_core_file", "target_core_iblock", "target_core_user",
	"iscsi_target_mod", "tcm_loop", "vsock", "vmw_vsock_virtio_transport", "veth", "bridge", "tun", "sch_netem", "sch_tbf", "configfs", "nfsd"}

// earlyModules are what the first boot stage loads to reach the root.
var earlyModules = []string{"virtio_pci", "virtio_console", "virtio_blk", "ext4", "overlay", "9p", "9pnet_virtio", "virtio_rng"}

var buildPackages = []string{"binutils", "file", "gawk", "gcc", "kmod", "libc6-dev", "make", "xz-utils", "zstd"}

var (
	//go:embed init.sh
	initScript []byte
	//go:embed start.sh
	startScript []byte
	//go:embed modules.sh
	modulesScript []byte
)

// machine builds everything in the workshop and moves it to its place in the cache
// as one.
func (w *workshop) machine(c choice, final string) error {
	if err := w.roots(c); err != nil {
		return err
	}
	if err := w.openZFS(c); err != nil {
		return err
	}
	missing, err := w.modules(c)
	if err != nil {
		return err
	}
	done := step("pack")
	out := final + ".new"
	if err := errors.Join(os.RemoveAll(out), os.Mkdir(out, 0o755)); err != nil {
		return err
	}
	if err := errors.Join(w.kernel(c, filepath.Join(out, "vmlinux")), w.initrd(filepath.Join(out, "initrd")), w.image(c, filepath.Join(out, "root.ext4"))); err != nil {
		return errors.Join(err, os.RemoveAll(out))
	}
	versions := fmt.Sprintf("kernel: %s\npackage: %s\nzfs: %s\nrecipe: %s\nmissing: %s\n", c.release, c.version, c.zfs, recipe(), missing)
	if err := os.WriteFile(filepath.Join(out, "versions"), []byte(versions), 0o644); err != nil {
		return err
	}
	done()
	return os.Rename(out, final)
}

// bootstrap makes a root of the release with the packages. Nothing of it is worth
// a barrier: a half-made root is thrown away.
func (w *workshop) bootstrap(c choice, into string, packages []string) error {
	defer step("root %s", filepath.Base(into))()
	pin := fmt.Sprintf("Package: zfs* libzfs* libzpool* libnvpair* libuutil*\nPin: version %s\nPin-Priority: 1001\n", c.zfs)
	if err := os.WriteFile(w.path("pin"), []byte(pin), 0o644); err != nil {
		return err
	}
	args := []string{"--quiet", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io", `--aptopt=APT::Install-Recommends "false"`,
		fmt.Sprintf(`--setup-hook=mkdir -p "$1/etc/apt/preferences.d" && cp %s "$1/etc/apt/preferences.d/zfs"`, w.path("pin"))}
	for _, folder := range []string{"doc", "man", "info", "locale", "lintian"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+folder+"/*")
	}
	return w.run("mmdebstrap", append(args, "--include="+strings.Join(packages, ","), c.pair.release, into, w.path("sources.list"))...)
}

func (w *workshop) roots(c choice) error {
	if err := w.bootstrap(c, w.path("guest"), guestPackages); err != nil {
		return err
	}
	if err := w.bootstrap(c, w.path("build"), append([]string{"linux-headers-" + c.release}, buildPackages...)); err != nil {
		return err
	}
	defer step("unpack the kernel")()
	if err := w.unpack(w.path("build/kernel"), c.version, c.kernel...); err != nil {
		return err
	}
	if _, err := os.Lstat(w.path("build/kernel/lib")); err == nil {
		return nil
	}
	return os.Symlink("usr/lib", w.path("build/kernel/lib"))
}

// inBuild runs a command in the build root, with a /proc that goes away with it.
func (w *workshop) inBuild(args ...string) error {
	return w.run("unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc=" + w.path("build/proc"), "chroot", w.path("build")}, args...)...)
}

// openZFS builds the module, or takes it from the cache.
func (w *workshop) openZFS(c choice) error {
	kept := filepath.Join(w.cache, "openzfs-"+c.zfs+"-for-"+c.version+"-"+c.release)
	if _, err := os.Stat(kept); err != nil {
		if err := w.compile(c, kept); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(w.path("build/openzfs")), w.run("cp", "-r", kept, w.path("build/openzfs")))
}

func (w *workshop) compile(c choice, kept string) error {
	defer step("compile OpenZFS %s for %s", c.zfs, c.release)()
	sources, err := filepath.Glob(w.path("source/usr/src/zfs-*"))
	if err != nil || len(sources) != 1 {
		return fmt.Errorf("zfs-dkms holds %d source trees", len(sources))
	}
	if err := os.Rename(sources[0], w.path("build/source")); err != nil {
		return err
	}
	headers := "/lib/modules/" + c.release
	err = w.inBuild("sh", "-ec", "cd /source && mkdir /out && ./configure --disable-dependency-tracking --prefix=/usr --with-config=kernel --enable-linux-experimental --with-linux="+
		headers+"/source --with-linux-obj="+headers+"/build >&2 && make -j2 >&2 && for m in zfs spl; do strip --strip-debug -o /out/$m.ko module/$m.ko; done")
	if err != nil {
		return err
	}
	fresh := kept + ".new"
	return errors.Join(os.RemoveAll(fresh), w.run("cp", "-r", w.path("build/out"), fresh), os.Rename(fresh, kept))
}

// modules gathers the guest's modules below build/guest, and says which this
// kernel does not have.
func (w *workshop) modules(c choice) (missing string, err error) {
	defer step("modules")()
	if err := os.WriteFile(w.path("build/modules.sh"), modulesScript, 0o755); err != nil {
		return "", err
	}
	err = w.inBuild("/bin/sh", "/modules.sh", c.release, strings.Join(guestModules, " "), strings.Join(earlyModules, " "))
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(w.path("build/guest/missing"))
	return strings.Join(strings.Fields(string(text)), " "), err
}

// kernel writes the kernel as the emulator starts it fastest: unpacked.
func (w *workshop) kernel(c choice, to string) error {
	var files []string
	for _, place := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"} {
		found, err := filepath.Glob(w.path("build/kernel", place))
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	if len(files) != 1 {
		return fmt.Errorf("the kernel packages %v hold %d kernels", c.kernel, len(files))
	}
	packed, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	payload, tool, err := unwrap(packed)
	if err != nil {
		return fmt.Errorf("%s: %w", files[0], err)
	}
	elf, err := w.pipe(bytes.NewReader(payload), "chroot", w.path("build"), tool, "-dc")
	if err != nil {
		return err
	}
	return os.WriteFile(to, elf, 0o644)
}

// initrd writes the first boot stage: busybox, a script and the few modules that
// lead to the root.
func (w *workshop) initrd(to string) error {
	list, err := os.ReadFile(w.path("build/guest/early"))
	if err != nil {
		return err
	}
	a := newArchive()
	a.folder("bin")
	a.folder("dev")
	busybox, err := os.ReadFile(w.path("guest/bin/busybox"))
	if err != nil {
		return err
	}
	a.file("bin/busybox", 0o755, busybox)
	a.file("init", 0o755, initScript)
	var names []string
	for _, file := range strings.Fields(string(list)) {
		module, err := os.ReadFile(w.path("build", file))
		if err != nil {
			return err
		}
		names = append(names, filepath.Base(file))
		a.file(filepath.Base(file), 0o644, module)
	}
	a.file("modules", 0o644, []byte(strings.Join(names, "\n")+"\n"))
	return os.WriteFile(to, a.bytes(), 0o644)
}

// image packs the guest root into a file system, without mounting anything.
func (w *workshop) image(c choice, to string) error {
	guest := w.path("guest")
	for _, waste := range []string{"var/lib/apt/lists", "var/cache/apt", "var/lib/dpkg/info", "usr/share/doc", "usr/share/man"} {
		if err := os.RemoveAll(filepath.Join(guest, waste)); err != nil {
			return err
		}
	}
	err := errors.Join(os.WriteFile(filepath.Join(guest, "start"), startScript, 0o755), os.MkdirAll(filepath.Join(guest, "usr/lib/modules"), 0o755),
		w.run("cp", "-r", w.path("build/guest/lib/modules", c.release), filepath.Join(guest, "usr/lib/modules")))
	if err != nil {
		return err
	}
	out, err := w.pipe(nil, "du", "-sm", "--apparent-size", guest)
	if err != nil {
		return err
	}
	mib, err := strconv.Atoi(strings.Fields(string(out))[0])
	if err != nil {
		return err
	}
	return w.run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", guest, to, fmt.Sprintf("%dM", mib+mib/4+32))
}
