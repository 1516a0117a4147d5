package vm

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cairn"
)

// DefaultKernel is the pair of kernel and OpenZFS that is meant when none is named.
const DefaultKernel = "backports"

// Image is a machine that can be booted any number of times, also at once.
type Image struct {
	Dir      string
	Versions map[string]string // kernel, package, zfs, recipe, missing (modules this kernel does not have)
}

// Find opens a machine in the cache; KindNotFound when it was not built.
func Find(cache, kernel string) (*Image, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(cache, kernel))
	if err != nil {
		return nil, &cairn.Error{Op: "find virtual machine", Subject: kernel, Kind: cairn.KindNotFound, Err: err, Hint: "build it with `make vm-prepare KERNEL=" + kernel + "`"}
	}
	text, err := os.ReadFile(filepath.Join(dir, "versions"))
	if err != nil {
		return nil, &cairn.Error{Op: "read versions of virtual machine", Subject: kernel, Kind: cairn.KindIO, Err: err, Hint: "remove its folder and build it anew"}
	}
	return &Image{Dir: dir, Versions: parseVersions(text)}, nil
}

func parseVersions(text []byte) map[string]string {
	v := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if key, value, is := strings.Cut(lines.Text(), ":"); is {
			v[key] = strings.TrimSpace(value)
		}
	}
	return v
}

// String says what the machine is made of.
func (im *Image) String() string {
	s := fmt.Sprintf("kernel %s, OpenZFS %s (%s)", im.Versions["kernel"], im.Versions["zfs"], im.Dir)
	if m := im.Versions["missing"]; m != "" {
		s += ", without modules " + m
	}
	return s
}

// CacheDir is where machines are kept: $CAIRN_VM_CACHE, else .work/vm of the
// checkout that holds the working directory.
func CacheDir() string {
	if dir := os.Getenv("CAIRN_VM_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	for err == nil {
		if _, none := os.Stat(filepath.Join(dir, "go.mod")); none == nil {
			return filepath.Join(dir, ".work", "vm")
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return filepath.Join(".work", "vm")
}
