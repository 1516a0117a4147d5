package tidy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

func report(t *testing.T, bad []string) {
	t.Helper()
	for _, b := range bad {
		t.Error(b)
	}
}

func TestTree(t *testing.T) {
	pkgs, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("imports", func(t *testing.T) { report(t, CheckImports(pkgs)) })
	t.Run("libraries", func(t *testing.T) { report(t, CheckLibraries(pkgs)) })
	t.Run("docs", func(t *testing.T) { report(t, CheckDocs(pkgs)) })
	t.Run("names", func(t *testing.T) { report(t, CheckNames(pkgs)) })
	t.Run("sizes", func(t *testing.T) { report(t, CheckSizes(pkgs, longFiles)) })
	t.Run("promises", func(t *testing.T) {
		promises, err := os.ReadFile(filepath.Join(root, "docs/PROMISES.md"))
		if err != nil {
			t.Fatal(err)
		}
		makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
		if err != nil {
			t.Fatal(err)
		}
		report(t, CheckPromises(pkgs, promises, makefile))
	})
}

// plant writes files into a fresh tree and loads it.
func plant(t *testing.T, files map[string]string) []*Package {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pkgs, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

// Each rule is shown one violation and must name it.
func TestPlantedViolations(t *testing.T) {
	doc := func(name string) string {
		return "// Package " + name + " is here to be looked at by a test, and has a comment long enough.\npackage " + name + "\n"
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		check func([]*Package) []string
		want  string
	}{
		{"upward import", map[string]string{"internal/policy/plan/a.go": doc("plan") + `import _ "cairn/internal/system/volume"`, "internal/system/volume/a.go": doc("volume")},
			CheckImports, "floor 2 imports floor 3"},
		{"sideways import", map[string]string{"internal/work/prune/a.go": doc("prune") + `import _ "cairn/internal/system/volume"`, "internal/system/volume/a.go": doc("volume")},
			CheckImports, "both stand on floor 3"},
		{"sideways in app", map[string]string{"internal/app/config/a.go": doc("config") + `import _ "cairn/internal/app/daemon"`, "internal/app/daemon/a.go": doc("daemon")},
			CheckImports, "both stand on floor 4"},
		{"root imports house", map[string]string{"a.go": doc("cairn") + `import _ "cairn/internal/mech/frame"`, "internal/mech/frame/a.go": doc("frame")},
			CheckImports, "the root imports only"},
		{"testkit outside tests", map[string]string{"internal/work/prune/a.go": doc("prune") + `import _ "cairn/internal/testkit/memory"`},
			CheckImports, "only tests and tools"},
		{"homeless folder", map[string]string{"pkg/x/a.go": doc("x")}, CheckImports, "no place in the house"},
		{"library astray", map[string]string{"internal/work/prune/a.go": doc("prune") + `import _ "github.com/goccy/go-yaml"`}, CheckLibraries, "whose home is"},
		{"unknown library", map[string]string{"internal/work/prune/a.go": doc("prune") + `import _ "example.org/x"`}, CheckLibraries, "give the library a home"},
		{"cgo", map[string]string{"internal/mech/kernel/a.go": doc("kernel") + `import "C"`}, CheckLibraries, "no cgo"},
		{"no comment", map[string]string{"internal/work/prune/a.go": "package prune\n"}, CheckDocs, "no package comment"},
		{"empty name", map[string]string{"internal/mech/util/a.go": doc("util")}, CheckNames, "says nothing"},
		{"long file", map[string]string{"internal/work/prune/a.go": doc("prune") + strings.Repeat("\n", 600)},
			func(p []*Package) []string { return CheckSizes(p, nil) }, "over 500"},
		{"stale reason", map[string]string{"internal/work/prune/a.go": doc("prune")},
			func(p []*Package) []string { return CheckSizes(p, map[string]string{"internal/work/prune/a.go": "x"}) }, "is short now"},
		{"missing proof", map[string]string{"internal/work/prune/a.go": doc("prune")},
			func(p []*Package) []string {
				return CheckPromises(p, []byte("| P1 | x | `internal/work/prune.TestGone` |\n"), nil)
			}, "no test TestGone"},
		{"missing target", nil, func(p []*Package) []string {
			return CheckPromises(p, []byte("| P1 | x | `make gone` |\n"), []byte("all:\n"))
		}, "no make target gone"},
		{"twice", nil, func(p []*Package) []string {
			return CheckPromises(p, []byte("| P1 | x | open |\n| P1 | y | open |\n"), nil)
		}, "stands twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(c.check(plant(t, c.files)), "\n")
			if !strings.Contains(got, c.want) {
				t.Errorf("got %q, want it to say %q", got, c.want)
			}
		})
	}
}

func TestCleanTreePasses(t *testing.T) {
	pkgs := plant(t, map[string]string{
		"internal/work/prune/a.go":       "// Package prune is a verb with a comment that is long enough to say something.\npackage prune\n\nimport _ \"cairn/internal/policy/retention\"\n",
		"internal/work/prune/a_test.go":  "package prune\n\nfunc TestX() {}\n",
		"internal/policy/retention/a.go": "// Package retention decides, and has a comment that is long enough to say it.\npackage retention\n",
	})
	report(t, CheckImports(pkgs))
	report(t, CheckDocs(pkgs))
	report(t, CheckPromises(pkgs, []byte("| P1 | x | `internal/work/prune.TestX`, `make test` |\n"), []byte("\ntest:\n")))
}
