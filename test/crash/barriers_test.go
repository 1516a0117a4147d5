package crash_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// engineDirs is where the engine's source lies, seen from here.
var engineDirs = []string{"internal/system/volume", "internal/system/volume/catalog", "internal/system/volume/segment",
	"internal/system/volume/changes", "internal/system/volume/stage", "internal/system/volume/hashes", "internal/mech/twin"}

// barrier is a place in the engine's source that makes something durable.
type barrier struct {
	name string // file and function, and which one there
	file string // end of the path
	line int
}

// barriers finds every call of Sync, SyncDir and what stands for them.
func barriers(t *testing.T) []barrier {
	t.Helper()
	var list []barrier
	for _, dir := range engineDirs {
		files, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, path := range files {
			if !strings.HasSuffix(path, "_test.go") {
				list = append(list, barriersIn(t, path, filepath.Join(dir, filepath.Base(path)))...)
			}
		}
	}
	return list
}

func barriersIn(t *testing.T, path, file string) (list []barrier) {
	t.Helper()
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		n := 0
		ast.Inspect(fn, func(x ast.Node) bool {
			if call, ok := x.(*ast.CallExpr); ok && isBarrier(call) {
				n++
				list = append(list, barrier{fmt.Sprintf("%s %s %d", strings.TrimPrefix(strings.TrimPrefix(file, "internal/system/volume/"), "internal/mech/"), fn.Name.Name, n), file, fset.Position(call.Pos()).Line})
			}
			return true
		})
	}
	return list
}

func isBarrier(call *ast.CallExpr) bool {
	name := ""
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok && x.Name == "m" {
			return false // the merger of extents
		}
		name = f.Sel.Name
	case *ast.Ident:
		name = f.Name
	}
	return slices.Contains([]string{"Sync", "SyncDir", "syncDir", "flush", "syncUp"}, name)
}

// leftOut tells whether the call under way comes from the barrier.
func (b barrier) leftOut() bool {
	var pcs [40]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if f.Line == b.line && strings.HasSuffix(f.File, b.file) {
			return true
		}
		if !more {
			return false
		}
	}
}

// outsideStore are the barriers that no store's disk sees, each with what it makes
// durable.
var outsideStore = map[string]string{
	"registry.go prepare 1":        "folders of the registry above a volume's entry",
	"registry.go syncUp 1":         "the same, one folder",
	"registry.go point 1":          "the file that names a store elsewhere",
	"registry.go point 2":          "its name",
	"registry.go rename 1":         "a volume's new name",
	"registry.go rename 2":         "a volume's old name",
	"registry.go remove 1":         "the name of a volume that is gone",
	"placegroup.go groupRecords 1": "the folder of group records, before the first",
	"place.go makeStore 1":         "the name of a new store",
}

// notNeeded are the barriers that no promise stands on, each with why it is there.
var notNeeded = map[string]string{
	"capture.go capture 1":      "it only makes the pause of a capture shorter: the flush behind the switch is what counts",
	"segment/segment.go Seal 1": "an index is a cache with a checksum: where it is torn, the segment's headers are read",
	"staging.go flushAll 1":     "it only makes the pause of a capture shorter, too",
	"persist.go append 2":       "the planted fault of a sync that is tried again on the same data",
	"group.go inTurns 1":        "it belongs to a planted fault",
	"group.go write 2":          "it comes only after a folder that could not be synced; TestGroupFailingCalls fails that sync",
	"persist.go seal 1":         "an index that is not there is the same as a torn one",
}

// provedElsewhere are the barriers that no workload here comes to, each with the
// test that leaves it out and notices.
var provedElsewhere = map[string]string{
	"catalog/log.go Rewrite 1": "internal/system/volume/catalog.TestARecordLeftInTheCacheIsMadeDurable",
	"damage.go fillSegment 1":  "internal/system/volume.TestBarriersOfHealingAreNeeded",
	"damage.go fillSegment 2":  "internal/system/volume.TestBarriersOfHealingAreNeeded",
	"heal.go commit 1":         "internal/system/volume.TestHealWritesUnreadableBlocksOfTheHead",
	"catalog/log.go Open 1":    "internal/system/volume/catalog.TestRecordsOfAKilledProcessAreMadeDurable",
	"resize.go shrink 1":       "internal/system/volume.TestWhatAShrinkTookOffGrowsBackAsZeroes",
	"twin/twin.go Grow 1":      "internal/mech/twin.TestALengthIsDurableBeforeItIsUsed",
}

// Each barrier of the engine is needed: without it a cut comes out wrong, within a
// few workloads. The log says by which.
func TestEachBarrierIsNeeded(t *testing.T) {
	for i, b := range barriers(t) {
		if !sampled(i, 12) || outsideStore[b.name]+notNeeded[b.name]+provedElsewhere[b.name] != "" {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			for s := uint64(1); s <= 25; s++ {
				if err := tryWithout(b, s); err != nil {
					t.Logf("noticed by seed %d: %v", s, err)
					return
				}
			}
			t.Error("left out, and nothing noticed it")
		})
	}
}

func tryWithout(b barrier, s uint64) error {
	if strings.HasPrefix(b.name, "group.go") {
		_, _, _, err := tryPair(s, 0, b.leftOut, always(2))
		return err
	}
	w := draw(s, *length)
	if strings.HasPrefix(b.name, "hashes/") {
		w = drawHashed(s, *length)
	}
	w.lie = b.leftOut
	if f, _ := try(w, 0, always(2)); f != nil {
		return fmt.Errorf("cut %d: %w", f.cut, f.err)
	}
	source := drawSource(s, 3)
	source.lie = b.leftOut
	_, err := tryReceive(source, 0, 1)
	return err
}
