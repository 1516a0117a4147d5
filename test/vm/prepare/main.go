// Command prepare builds the machine of the virtual machine suite (package vm):
// a kernel with its modules and OpenZFS, a root file system with their tools and a
// first boot stage, all from Debian packages.
//
//	prepare [-kernel backports|stable] [-cache DIR] [-keep]
//
// It needs root (else it calls itself through sudo) and a Debian machine; tools it
// lacks it installs through apt. Versions are chosen by rule: the suite's newest
// OpenZFS, and the newest kernel there that its metadata allows. They are printed
// and are part of the machine's name in the cache, so a machine is built again
// when, and only when, a package or the recipe has changed. With -keep nothing is
// looked up and a machine of this recipe that is there is good.
//
// Packages come from the mirror that this machine's apt is configured for, or from
// $CAIRN_VM_MIRROR. Work is done below /dev/shm where that has room, which makes
// it ten times faster than on a disk; the OpenZFS module, the slow part, is kept
// apart in the cache and survives a change of the recipe.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cairn/test/vm"
)

func main() {
	kernel := flag.String("kernel", vm.DefaultKernel, "which pair of kernel and OpenZFS: "+strings.Join(pairNames(), ", "))
	cache := flag.String("cache", "", "folder that keeps machines (default $CAIRN_VM_CACHE, else .work/vm of the checkout)")
	keep := flag.Bool("keep", false, "a machine that this recipe built before is good; look for nothing newer")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *cache == "" {
		*cache = vm.CacheDir()
	}
	if err := run(ctx, *kernel, *cache, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "vm-prepare:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context, kernel, cache string, keep bool) error {
	p, known := pairs[kernel]
	if !known {
		return fmt.Errorf("there is no pair %q of kernel and OpenZFS; there are: %s", kernel, strings.Join(pairNames(), ", "))
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return err
	}
	if keep {
		if im, err := vm.Find(cache, kernel); err == nil && im.Versions["recipe"] == recipe() {
			fmt.Printf("vm-prepare: %s is there: %s\n", kernel, im)
			return nil
		}
	}
	if os.Geteuid() != 0 {
		return asRoot(ctx, kernel, cache, keep)
	}
	return build(ctx, p, kernel, cache)
}

// asRoot runs this program again through sudo, which must not ask.
func asRoot(ctx context.Context, kernel, cache string, keep bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"-n", "env", "CAIRN_VM_MIRROR=" + os.Getenv("CAIRN_VM_MIRROR"), self, "-kernel", kernel, "-cache", cache, fmt.Sprintf("-keep=%v", keep)}
	cmd := exec.CommandContext(ctx, "sudo", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building a machine installs packages and owns files as root, and sudo did not do it (%w): run `make vm-prepare` as root once", err)
	}
	return nil
}

func build(ctx context.Context, p pair, kernel, cache string) (err error) {
	started := time.Now()
	w, err := newWorkshop(ctx, cache)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.tools(); err != nil {
		return err
	}
	if err := w.sources(p); err != nil {
		return err
	}
	c, err := w.choose(p)
	if err != nil {
		return err
	}
	name := c.name(kernel)
	final := filepath.Join(cache, name)
	if _, err := os.Stat(final); err != nil {
		if err := w.machine(c, final); err != nil {
			return err
		}
	}
	if err := point(cache, kernel, name); err != nil {
		return err
	}
	im, err := vm.Find(cache, kernel)
	if err != nil {
		return err
	}
	fmt.Printf("vm-prepare: %s is ready after %.0f s: %s\n", kernel, time.Since(started).Seconds(), im)
	return nil
}

// point makes the pair's name lead to its present machine, in one step, and
// removes the machines it led to before.
func point(cache, kernel, name string) error {
	link := filepath.Join(cache, kernel)
	_ = os.Remove(link + ".new") // left by a run that was cut off
	if err := os.Symlink(name, link+".new"); err != nil {
		return err
	}
	if err := os.Rename(link+".new", link); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(cache, kernel+"-*"))
	for _, dir := range old {
		if filepath.Base(dir) != name {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}
