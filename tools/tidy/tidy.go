// Package tidy holds the rules about the tree itself: which package may import
// which, that every package says what it is for, which names say nothing, how
// long a file may grow without a reason, and that every promise names a test that
// exists. Its test applies them to this repository and to planted violations.
//
// The floors and the reasons are in docs/ARCHITECTURE.md.
package tidy

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// Module is the import path of the root package.
const Module = "cairn"

// Package is what the rules look at: one folder's Go files, tests apart.
type Package struct {
	Dir         string // slash-separated, relative to the root; "." is the root
	Name        string
	Doc         string
	Imports     map[string][]string // import path → files (not tests)
	TestImports map[string][]string
	Lines       map[string]int  // file → lines
	Tests       map[string]bool // Test…, Fuzz…, Benchmark… and Example… functions
}

// Load reads every Go package below root, leaving out testdata and folders whose
// name begins with '.' or '_'.
func Load(root string) ([]*Package, error) {
	byDir := map[string]*Package{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		return loadFile(byDir, file, filepath.ToSlash(rel))
	})
	if err != nil {
		return nil, err
	}
	pkgs := make([]*Package, 0, len(byDir))
	for _, p := range byDir {
		pkgs = append(pkgs, p)
	}
	sort.Slice(pkgs, func(i, j int) bool { return pkgs[i].Dir < pkgs[j].Dir })
	return pkgs, nil
}

func loadFile(byDir map[string]*Package, file, rel string) error {
	src, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := path.Dir(rel)
	p := byDir[dir]
	if p == nil {
		p = &Package{Dir: dir, Imports: map[string][]string{}, TestImports: map[string][]string{}, Lines: map[string]int{}, Tests: map[string]bool{}}
		byDir[dir] = p
	}
	p.Lines[rel] = bytes.Count(src, []byte("\n"))
	isTest := strings.HasSuffix(rel, "_test.go")
	imports := p.Imports
	if isTest {
		imports = p.TestImports
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && isTestName(fn.Name.Name) {
				p.Tests[fn.Name.Name] = true
			}
		}
	} else {
		p.Name = f.Name.Name
		if f.Doc != nil && p.Doc == "" {
			p.Doc = f.Doc.Text()
		}
	}
	for _, im := range f.Imports {
		ip := strings.Trim(im.Path.Value, `"`)
		imports[ip] = append(imports[ip], rel)
	}
	return nil
}

func isTestName(name string) bool {
	for _, prefix := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Floor returns the floor of a package folder: 1 mechanisms, formats, root and
// ltfs; 2 policy and client; 3 systems, verbs and faces; 4 composition; 5 what
// stands outside the house (main, tests, tools), which may import anything. Zero
// means the folder has no place in the house.
func Floor(dir string) int {
	first, _, _ := strings.Cut(dir, "/")
	switch first {
	case ".", "ltfs":
		return 1
	case "client":
		return 2
	case "cmd", "test", "tools":
		return 5
	case "internal":
	default:
		return 0
	}
	parts := strings.SplitN(dir, "/", 3)
	if len(parts) < 3 {
		return 0
	}
	switch parts[1] {
	case "mech", "format":
		return 1
	case "policy":
		return 2
	case "system", "work", "front":
		return 3
	case "app":
		return 4
	case "testkit":
		return 5
	}
	return 0
}

// sideways are the reasoned exceptions on floor 3.
var sideways = map[string]string{
	"internal/system/rpc internal/system/transport": "rpc is the protocol over transport's connections",
	"internal/work/restore internal/work/replicate": "restoring to a volume is a replication in reverse",
	"internal/work/archive internal/work/replicate": "archiving is a replication to media",
	"internal/front/ltfsmount internal/system/tape": "the mount is the tape's file system in the words of FUSE; an interface between would repeat all of it",
}

// appOrder is the order inside app: a package imports only those before it.
var appOrder = map[string]int{"internal/app/config": 1, "internal/app/job": 1, "internal/app/daemon": 2, "internal/app/attach": 2, "internal/app/cli": 3}

// CheckImports applies the floors.
func CheckImports(pkgs []*Package) []string {
	var bad []string
	for _, p := range pkgs {
		from := Floor(p.Dir)
		if from == 0 {
			bad = append(bad, p.Dir+": has no place in the house; see docs/ARCHITECTURE.md")
			continue
		}
		for ip, files := range p.Imports {
			if ip != Module && !strings.HasPrefix(ip, Module+"/") {
				continue
			}
			to := strings.TrimPrefix(strings.TrimPrefix(ip, Module), "/")
			if to == "" {
				to = "."
			}
			if why := forbidden(p.Dir, to); why != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", files[0], to, why))
			}
		}
	}
	sort.Strings(bad)
	return bad
}

func forbidden(from, to string) string {
	if from != "." && to == "." || strings.HasPrefix(to, from+"/") {
		return ""
	}
	f, t := Floor(from), Floor(to)
	if t == 5 && f < 5 {
		return "only tests and tools import " + to
	}
	switch {
	case from == ".":
		return "the root imports only the standard library"
	case t < f, f == 5:
		return ""
	case t > f:
		return fmt.Sprintf("floor %d imports floor %d", f, t)
	case f == 1 && from != "ltfs" && to != "ltfs":
		return "" // sideways is free inside mech and format
	case f == 4 && appOrder[to] > 0 && appOrder[to] < appOrder[from]:
		return ""
	case sideways[from+" "+to] != "":
		return ""
	}
	return fmt.Sprintf("both stand on floor %d; connect them in app, or give the reason in tools/tidy", f)
}

// oneHome lists third-party libraries with a large surface and the only folder
// that may import each.
var oneHome = map[string]string{
	"github.com/goccy/go-yaml":            "internal/app/config",
	"github.com/spf13/cobra":              "internal/app/cli",
	"github.com/spf13/pflag":              "internal/app/cli",
	"golang.org/x/sys":                    "internal/mech/kernel",
	"golang.org/x/term":                   "internal/app/cli",
	"github.com/adhocore/gronx":           "internal/policy/schedule",
	"github.com/prometheus/client_golang": "internal/front/metrics",
	"github.com/hanwen/go-fuse/v2":        "internal/front/ltfsmount",
	"github.com/klauspost/compress":       "internal/format",
	"golang.org/x/time":                   "internal/system/wrap",
	"github.com/rogpeppe/go-internal":     "test",
	"pgregory.net/rapid":                  "", // tests only, anywhere
}

// CheckLibraries keeps each large library in its one home, and the root and ltfs
// on the standard library.
func CheckLibraries(pkgs []*Package) []string {
	var bad []string
	for _, p := range pkgs {
		for ip, files := range p.Imports {
			first, _, _ := strings.Cut(ip, "/")
			if !strings.Contains(first, ".") {
				if ip == "C" {
					bad = append(bad, files[0]+": imports C; the main binary has no cgo")
				}
				continue
			}
			if p.Dir == "." || p.Dir == "ltfs" || strings.HasPrefix(p.Dir, "ltfs/") {
				bad = append(bad, fmt.Sprintf("%s imports %s: this package uses the standard library only", files[0], ip))
				continue
			}
			home, known := homeOf(ip)
			switch {
			case !known:
				bad = append(bad, fmt.Sprintf("%s imports %s: give the library a home in tools/tidy and a decision record", files[0], ip))
			case p.Dir != home && !strings.HasPrefix(p.Dir, home+"/"):
				bad = append(bad, fmt.Sprintf("%s imports %s, whose home is %s", files[0], ip, home))
			}
		}
	}
	sort.Strings(bad)
	return bad
}

func homeOf(ip string) (string, bool) {
	for lib, home := range oneHome {
		if ip == lib || strings.HasPrefix(ip, lib+"/") {
			return home, true
		}
	}
	return "", false
}

// CheckDocs wants a package comment of at least one full sentence that begins as
// Go's do.
func CheckDocs(pkgs []*Package) []string {
	var bad []string
	for _, p := range pkgs {
		if p.Name == "" { // tests only
			continue
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) || len(p.Doc) < 60 {
			bad = append(bad, fmt.Sprintf("%s: no package comment that begins %q and says what it is for", p.Dir, want))
		}
	}
	return bad
}

var emptyNames = map[string]bool{"util": true, "utils": true, "common": true, "helper": true, "helpers": true,
	"manager": true, "misc": true, "base": true, "shared": true, "types": true}

// CheckNames refuses package names that say nothing.
func CheckNames(pkgs []*Package) []string {
	var bad []string
	for _, p := range pkgs {
		if emptyNames[path.Base(p.Dir)] || emptyNames[p.Name] || strings.Contains(p.Name, "_") && !strings.HasSuffix(p.Name, "_test") {
			bad = append(bad, p.Dir+": the name says nothing; name the package by what it does")
		}
	}
	return bad
}

// Sizes above which a file needs a reason in longFiles.
const (
	maxLines     = 500
	maxTestLines = 800
)

// CheckSizes asks for a reason per long file, and for the removal of reasons that
// are no longer needed.
func CheckSizes(pkgs []*Package, reasons map[string]string) []string {
	var bad []string
	long := map[string]bool{}
	for _, p := range pkgs {
		for file, n := range p.Lines {
			limit := maxLines
			if strings.HasSuffix(file, "_test.go") {
				limit = maxTestLines
			}
			if n <= limit {
				continue
			}
			long[file] = true
			if reasons[file] == "" {
				bad = append(bad, fmt.Sprintf("%s has %d lines (over %d): split it, or give the reason in tools/tidy", file, n, limit))
			}
		}
	}
	for file := range reasons {
		if !long[file] {
			bad = append(bad, file+": is short now; take its reason out of tools/tidy")
		}
	}
	sort.Strings(bad)
	return bad
}

var (
	promiseRow = regexp.MustCompile(`^\| (P[0-9]+) \| (.*) \| (.*) \|$`)
	proofRef   = regexp.MustCompile("^`([a-z0-9A-Z_./-]+)\\.((?:Test|Fuzz|Benchmark|Example)[A-Za-z0-9_]*)`$")
	makeRef    = regexp.MustCompile("^`make ([a-z-]+)`$")
)

// CheckPromises reads docs/PROMISES.md: each row is "| P12 | statement | proof |",
// where proof is "open", or one or more of `folder.TestName` and `make target`,
// separated by commas. It reports proofs that do not exist.
func CheckPromises(pkgs []*Package, promises, makefile []byte) []string {
	var bad []string
	byDir := map[string]*Package{}
	for _, p := range pkgs {
		byDir[p.Dir] = p
	}
	ids := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(promises))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "| P") {
			continue
		}
		m := promiseRow.FindStringSubmatch(line)
		if m == nil {
			bad = append(bad, "docs/PROMISES.md: unreadable row: "+line)
			continue
		}
		id, proof := m[1], m[3]
		if ids[id] {
			bad = append(bad, "docs/PROMISES.md: "+id+" stands twice")
		}
		ids[id] = true
		if proof == "open" || strings.HasPrefix(proof, "open: ") {
			continue
		}
		for ref := range strings.SplitSeq(proof, ", ") {
			if why := missingProof(byDir, makefile, ref); why != "" {
				bad = append(bad, fmt.Sprintf("docs/PROMISES.md: %s: %s", id, why))
			}
		}
	}
	if len(ids) == 0 {
		bad = append(bad, "docs/PROMISES.md: holds no promise")
	}
	return bad
}

func missingProof(byDir map[string]*Package, makefile []byte, ref string) string {
	if m := makeRef.FindStringSubmatch(ref); m != nil {
		if !bytes.Contains(makefile, []byte("\n"+m[1]+":")) {
			return "no make target " + m[1]
		}
		return ""
	}
	m := proofRef.FindStringSubmatch(ref)
	if m == nil {
		return "cannot read the proof " + ref
	}
	p := byDir[m[1]]
	if p == nil || !p.Tests[m[2]] {
		return fmt.Sprintf("no test %s in %s", m[2], m[1])
	}
	return ""
}
