//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package fakezfs

import (
	"errors"
	"os"
)

const (
	shared = 1 << iota
	exclusive
	atOnce
)

// lockFile is for systems with flock: the fake does not run elsewhere.
func lockFile(*os.File, int) error { return errors.ErrUnsupported }
