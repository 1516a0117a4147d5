//go:build linux

package posix_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/internal/testkit/tapemount"
)

var treeFlag = flag.String("tree", "", "a folder to copy to a tape and back, as /usr/share; empty: a small one that is made for it")

// smallTree makes folders, files of many sizes, links, times and a read-only file.
func smallTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	rng := rand.New(rand.NewPCG(1, 7))
	for i := range 150 {
		sub := filepath.Join(dir, fmt.Sprint("d", i%5), fmt.Sprint("e", i%11))
		data := make([]byte, rng.IntN(1<<rng.IntN(19)))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		name := filepath.Join(sub, fmt.Sprintf("file %d: %%ä", i))
		at := time.Unix(1_500_000_000+int64(i), int64(i)*1003)
		for _, err := range []error{os.MkdirAll(sub, 0o755), os.WriteFile(name, data, 0o644), os.Chtimes(name, at, at)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, err := range []error{os.Symlink("d0/../d1", filepath.Join(dir, "link")), os.WriteFile(filepath.Join(dir, "readonly"), []byte("r"), 0o444)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("this place does not offer %s", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// listing is names, kinds, sizes and times of files, and targets of links.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	out := program(t, "find", dir, "-mindepth", "1", "(", "-type", "f", "-printf", "%P %s %T@\n", "-o", "-type", "l", "-printf", "%P -> %l\n", "-o", "-printf", "%P %y\n", ")")
	lines := strings.Split(out, "\n")
	slices.Sort(lines) // a folder's order is its file system's own
	return lines
}

func sameTree(t *testing.T, a, b string) {
	t.Helper()
	if la, lb := listing(t, a), listing(t, b); !slices.Equal(la, lb) {
		for i := range min(len(la), len(lb)) {
			if la[i] != lb[i] {
				t.Fatalf("%q in %s, %q in %s", la[i], a, lb[i], b)
			}
		}
		t.Fatalf("%d entries in %s, %d in %s", len(la), a, len(lb), b)
	}
	program(t, "diff", "-r", "--no-dereference", a, b)
}

// A tree goes to a tape with each of the tools and comes back from it, mounted anew
// in between, the same in content, names, times and links.
func TestTrees(t *testing.T) {
	tapemount.Need(t)
	tree := *treeFlag
	if tree == "" {
		tree = smallTree(t)
	}
	for _, tool := range []struct {
		name string
		copy func(t *testing.T, from, to string)
	}{
		// Hard links and owners are not part of LTFS: cp and rsync are told so.
		{"cp", func(t *testing.T, from, to string) { program(t, "cp", "-a", "--no-preserve=links,ownership", from, to) }},
		{"rsync", func(t *testing.T, from, to string) { program(t, "rsync", "-rlt", "--chmod=u+w", from+"/", to+"/") }},
		{"tar", func(t *testing.T, from, to string) {
			program(t, "sh", "-c", `mkdir "$2" && tar --format=posix --hard-dereference -C "$1" -cf - . | tar -C "$2" --no-same-owner -xpf -`, "sh", from, to)
		}},
	} {
		t.Run(tool.name, func(t *testing.T) {
			m := tapemount.Mount(t, tapemount.NewTape(t), tapemount.Options{Sync: "time@5m"})
			tool.copy(t, tree, m.Path("there"))
			m.Again()
			sameTree(t, tree, m.Path("there"))
			back := filepath.Join(t.TempDir(), "back")
			tool.copy(t, m.Path("there"), back)
			sameTree(t, tree, back)
			if tool.name == "rsync" { // and finds nothing to do the second time
				if out := program(t, "rsync", "-rltc", "-n", "-i", tree+"/", m.Path("there/")); strings.TrimSpace(strings.ReplaceAll(out, ".d..t...... ./", "")) != "" {
					t.Errorf("a second run would still change: %s", out)
				}
			}
			m.Unmount()
		})
	}
}
