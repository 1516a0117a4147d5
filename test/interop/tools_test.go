// Package interop_test lets foreign tools loose on what Cairn serves: each test
// needs the tools it names, and is skipped, naming them, where they are missing.
package interop_test

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// debian names the package of each tool.
var debian = map[string]string{
	"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin",
	"nbdsh": "python3-libnbd", "fio": "fio", "e2fsck": "e2fsprogs", "mkfs.ext4": "e2fsprogs",
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (Debian: %s)", tool, debian[tool])
		}
	}
}

// attempt runs a tool and returns what it printed. Its folder is the test's, so
// that sockets and files are named without their path.
func attempt(t *testing.T, dir, tool string, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, tool, args...)
	c.Dir = dir
	var out, problems bytes.Buffer
	c.Stdout, c.Stderr = &out, &problems
	err = c.Run()
	if err != nil {
		t.Logf("%s %s: %v\n%s%s", tool, strings.Join(args, " "), err, out.String(), problems.String())
	}
	return out.String(), err
}

// run is attempt for what has to succeed.
func run(t *testing.T, dir, tool string, args ...string) string {
	t.Helper()
	out, err := attempt(t, dir, tool, args...)
	if err != nil {
		t.Fatalf("%s failed", tool)
	}
	return out
}
