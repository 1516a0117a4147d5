package interop_test

import (
	_ "embed"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

//go:embed corners.py
var cornersProgram string

// corners asks libnbd, whose own checks are switched off, to send what a careful
// client never would.
func corners(t *testing.T, d *disk) {
	python := libnbdPython(t)
	write(t, d.dir, "corners.py", []byte(cornersProgram))
	mode := "read-only"
	if d.writable {
		mode = "writable"
	}
	out := run(t, d.dir, python, "corners.py", "s", d.export, strconv.FormatInt(d.size, 10), mode)
	if !strings.HasSuffix(out, "all as expected\n") {
		t.Error(out)
	}
}

// libnbdPython finds a Python that has libnbd.
func libnbdPython(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(python, "-c", "import nbd").Run() == nil {
			return python
		}
	}
	t.Skip("python3-libnbd is not installed")
	return ""
}
