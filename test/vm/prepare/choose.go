package main

import (
	"bufio"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// pair is where a kernel and the OpenZFS that fits it come from.
type pair struct {
	release string // of Debian: the tools and the C library of the guest
	suite   string // holds kernel and OpenZFS
}

var pairs = map[string]pair{
	"backports": {"trixie", "trixie-backports"},
	"stable":    {"trixie", "trixie"},
}

func pairNames() []string {
	var names []string
	for n := range pairs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// choice is what a machine is made of.
type choice struct {
	pair
	release string   // of the kernel, as uname -r says: 7.2.12+deb13-amd64
	kernel  []string // packages that hold vmlinuz and the modules
	version string   // of those packages
	zfs     string   // version of the OpenZFS packages
}

// name is the machine's folder in the cache: the pair, and a sum of all that it is
// made of.
func (c choice) name(kernel string) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(c.pair, c.release, c.kernel, c.version, c.zfs, recipe())))
	return kernel + "-" + hex.EncodeToString(sum[:6])
}

// offer is one package version in one suite.
type offer struct{ name, version, suite string }

// parseMadison reads what `apt-cache madison` prints:
//
//	zfs-dkms | 2.4.4-1~bpo13+1 | URI trixie-backports/contrib amd64 Packages
func parseMadison(out string) []offer {
	var offers []offer
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		col := strings.Split(lines.Text(), "|")
		if len(col) != 3 {
			continue
		}
		where := strings.Fields(col[2])
		if len(where) < 2 || where[len(where)-1] != "Packages" {
			continue
		}
		suite, _, _ := strings.Cut(where[1], "/")
		offers = append(offers, offer{strings.TrimSpace(col[0]), strings.TrimSpace(col[1]), suite})
	}
	return offers
}

// limits are the kernels an OpenZFS source says it builds for.
type limits struct{ minimum, maximum []int }

// parseMeta reads the file META of an OpenZFS source.
func parseMeta(meta string) (limits, error) {
	field := func(name string) []int {
		for line := range strings.Lines(meta) {
			if v, is := strings.CutPrefix(line, name+":"); is {
				return numbers(strings.TrimSpace(v))
			}
		}
		return nil
	}
	l := limits{field("Linux-Minimum"), field("Linux-Maximum")}
	if len(l.minimum) < 2 || len(l.maximum) < 2 {
		return l, fmt.Errorf("the META file of OpenZFS names no Linux-Minimum and Linux-Maximum")
	}
	return l, nil
}

// numbers is the leading dotted number of a release: 7.2.12+deb13-amd64 is 7, 2, 12.
func numbers(release string) []int {
	end := strings.IndexFunc(release, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		release = release[:end]
	}
	var n []int
	for part := range strings.SplitSeq(release, ".") {
		v, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		n = append(n, v)
	}
	return n
}

// allows compares major and minor number only, as OpenZFS does.
func (l limits) allows(release string) bool {
	n := numbers(release)
	return len(n) >= 2 && slices.Compare(n[:2], l.minimum[:2]) >= 0 && slices.Compare(n[:2], l.maximum[:2]) <= 0
}

// chooseKernel picks the newest kernel of the suite that the limits allow and whose
// headers, image and modules are all offered. Kernels from 6.19 on come as
// linux-binary and linux-modules, and their linux-image is an empty shell.
func chooseKernel(offers []offer, suite string, l limits) (choice, error) {
	in := map[string]string{} // package name → version in the suite
	for _, o := range offers {
		if o.suite == suite && in[o.name] == "" { // the newest is listed first
			in[o.name] = o.version
		}
	}
	var best choice
	for name := range in {
		release, is := strings.CutPrefix(name, "linux-headers-")
		if !is || !plain(release) || !l.allows(release) {
			continue
		}
		packages := kernelPackages(in, release)
		if packages == nil || slices.Compare(numbers(release), numbers(best.release)) <= 0 {
			continue
		}
		best = choice{release: release, kernel: packages, version: in[packages[0]]}
	}
	if best.release == "" {
		return best, fmt.Errorf("no kernel in %s lies between %v and %v, which OpenZFS allows", suite, l.minimum, l.maximum)
	}
	return best, nil
}

// plain tells the full kernel from the flavours for clouds and real time.
func plain(release string) bool {
	flavour := strings.TrimSuffix(release, "-amd64")
	return flavour != release && !strings.Contains(flavour, "-") && len(numbers(release)) >= 3
}

func kernelPackages(in map[string]string, release string) []string {
	split := []string{"linux-binary-" + release, "linux-modules-" + release}
	if in[split[0]] != "" && in[split[0]] == in[split[1]] {
		return split
	}
	if in[split[0]] == "" && in[split[1]] == "" && in["linux-image-"+release] != "" {
		return []string{"linux-image-" + release}
	}
	return nil
}

//go:embed *.go *.sh
var source embed.FS

// recipe is a sum of this program's own text: a machine it built before a change
// is not one it would build now.
func recipe() string {
	sum := sha256.New()
	files, err := fs.Glob(source, "*")
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, readErr := source.ReadFile(f)
		err = errors.Join(err, readErr)
		fmt.Fprintf(sum, "%s %d\n%s", f, len(text), text)
	}
	if err != nil {
		panic("the program does not hold its own text: " + err.Error())
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}
