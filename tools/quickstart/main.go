// Command quickstart protects a real disk end to end in a minute or two, before
// the user's eyes: a disk image with an ext4 file system is adopted and served over
// NBD, rewritten while one daemon replicates it every few seconds to another over
// mutual TLS, pruned on both sides, destroyed, restored from the other side, and
// compared. It drives the real cairn binary and prints each command with what it
// answered; the last line is the verdict.
//
// It promises to make files in one folder only, to leave no process behind however
// it ends, and to begin anew when it is run again. What can go wrong is said before
// anything is made where it can be known: no room, a file system that cannot hold a
// store, missing tools, a path too long for sockets, a second run at the same time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	cairn := flag.String("cairn", "cairn", "the cairn `binary` to use")
	dir := flag.String("dir", ".work/quickstart", "the `folder` to make everything in; what an earlier run left there is removed")
	flag.Parse()
	os.Exit(run(*cairn, *dir))
}

// run returns the exit code: 0, 1 when something failed, 130 after an interrupt.
func run(cairn, dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	begin := time.Now()
	result, err := play(ctx, cairn, dir)
	took := time.Since(begin).Round(time.Second)
	switch {
	case err == nil:
		fmt.Printf("\nquickstart: PASS in %v: %s\n", took, result)
		return 0
	case ctx.Err() != nil:
		fmt.Printf("\nquickstart: interrupted after %v; every process it started has ended\n", took)
		return 130
	}
	fmt.Printf("\nquickstart: FAIL after %v: %v\n", took, err)
	return 1
}

// play prepares the ground, tells the story and ends what it started.
func play(ctx context.Context, cairn, dir string) (result string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if cairn, err = findCairn(cairn); err != nil {
		return "", err
	}
	tools, err := findTools()
	if err != nil {
		return "", err
	}
	unlock, err := prepare(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	s := &stage{dir: dir, cairn: cairn, tools: tools, out: os.Stdout}
	defer func() { err = errors.Join(err, s.end()) }()
	return s.tell(ctx)
}
