package restore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/testkit/memory"
	"cairn/internal/work/restore"
)

func (b *bench) toFile(version, path string) restore.FileOptions {
	return restore.FileOptions{Source: b.src.Endpoint(), Dataset: "db", Version: version, Path: path}
}

// isVersion wants the file to hold a version of db.
func (b *bench) isVersion(path, version string) []byte {
	b.Helper()
	want, err := b.src.Content("db", version)
	if err != nil {
		b.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		b.Errorf("%s is not db%s: %v", path, version, err)
	}
	return want
}

// onlyHas wants a folder to hold just these names.
func (b *bench) onlyHas(dir string, names ...string) {
	b.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		b.Errorf("the folder holds %v, want %v", got, names)
	}
}

func TestToFile(t *testing.T) {
	for _, how := range []string{"local", "remote"} {
		t.Run(how, func(t *testing.T) {
			b := newBench(t, "@a", "@b", "@c")
			dir := t.TempDir()
			o := b.toFile("@b", filepath.Join(dir, "disk.raw"))
			if how == "remote" {
				o.Source.Info.Identity = "web1"
			} else {
				o.Source.Sender = nil
			}
			o.Live = &restore.FileLive{}
			r, err := restore.ToFile(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(b.isVersion(o.Path, "@b"))
			if r.Method != restore.File || !r.Verified || r.SHA256 != hex.EncodeToString(sum[:]) || r.BytesMoved == 0 || r.BytesMoved > 60<<10 {
				t.Errorf("%+v", r)
			}
			if size, written, verified := o.Live.Progress(); size != volume || written != volume || verified != volume {
				t.Error(size, written, verified)
			}
			b.onlyHas(dir, "disk.raw")
			info, err := os.Stat(o.Path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Error(info.Mode(), err)
			}
		})
	}
}

func TestFileThatExists(t *testing.T) {
	b := newBench(t, "@a")
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	precious := func() {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
			t.Errorf("%q, %v", got, err)
		}
		b.onlyHas(dir, "disk.raw")
	}
	o := b.toFile("@a", path)
	if _, err := restore.ToFile(t.Context(), o); !errors.Is(err, cairn.KindExists) || cairn.HintOf(err) == "" {
		t.Error(err)
	}
	precious()
	o.Force, o.DryRun = true, true
	if r, err := restore.ToFile(t.Context(), o); err != nil || !strings.HasPrefix(r.Plan[0], "replace the file") || !r.DryRun {
		t.Errorf("%+v, %v", r, err)
	}
	precious()
	o.DryRun = false
	b.src.Hook(memory.On("blocks", memory.Body, memory.Fail(0, cairn.KindDamaged)))
	if _, err := restore.ToFile(t.Context(), o); !errors.Is(err, cairn.KindDamaged) {
		t.Error(err)
	}
	precious()
	b.src.Unhook()
	if _, err := restore.ToFile(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	b.isVersion(path, "@a")
	b.onlyHas(dir, "disk.raw")
}

func TestPathsThatCannotBe(t *testing.T) {
	b := newBench(t, "@a")
	for path, kind := range map[string]cairn.Kind{
		t.TempDir(): cairn.KindInvalid, "/dev/null": cairn.KindInvalid, filepath.Join(t.TempDir(), "no", "folder"): cairn.KindNotFound,
	} {
		o := b.toFile("@a", path)
		o.Force = true
		if _, err := restore.ToFile(t.Context(), o); !errors.Is(err, kind) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A stream that is cut, be it right before its end, leaves no file.
func TestCutStreamLeavesNothing(t *testing.T) {
	b := newBench(t, "@a")
	dir := t.TempDir()
	o := b.toFile("@a", filepath.Join(dir, "disk.raw"))
	o.Source.Info.Identity = "web1"
	for _, at := range []int64{0, 1} {
		b.src.Unhook()
		b.src.Hook(memory.On("send", memory.Body, func(_ context.Context, c memory.Call) error {
			if c.Bytes >= at {
				return cairn.KindUnavailable
			}
			return nil
		}))
		if _, err := restore.ToFile(t.Context(), o); err == nil {
			t.Errorf("cut after %d bytes: no error", at)
		}
		b.onlyHas(dir)
	}
}

// A disk that does not keep what is written to it is noticed, and no file appears.
func TestReadBackDiffers(t *testing.T) {
	b := newBench(t)
	for _, at := range []int64{0, 64 << 10} {
		if err := b.src.Write("db", at, bytes.Repeat([]byte{7}, 8192)); err != nil {
			t.Fatal(err)
		}
	}
	b.create(b.src, "db", "@a")
	dir := t.TempDir()
	o := b.toFile("@a", filepath.Join(dir, "disk.raw"))
	b.src.Hook(memory.On("blocks", memory.Body, func(context.Context, memory.Call) error {
		f, err := os.OpenFile(o.Path+".cairn-partial", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{8}, 0)
		return errors.Join(err, f.Close())
	}))
	if _, err := restore.ToFile(t.Context(), o); !errors.Is(err, cairn.KindCorrupt) || !strings.Contains(err.Error(), "reads back") {
		t.Error(err)
	}
	b.onlyHas(dir)
}

func TestCancel(t *testing.T) {
	b := newBench(t, "@a")
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	b.src.Hook(memory.On("blocks", memory.Body, func(ctx context.Context, c memory.Call) error { cancel(); return nil }))
	if _, err := restore.ToFile(ctx, b.toFile("@a", filepath.Join(dir, "disk.raw"))); !errors.Is(err, cairn.KindCanceled) {
		t.Error(err)
	}
	b.onlyHas(dir)
}

// archive shows a place as one that can only send what it stores: a full stream of
// the first version, increments of the others.
type archive struct{ cairn.Lister }

func (a archive) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for l, err := range a.Lister.List(ctx, q) {
			if err == nil {
				var before cairn.VersionID
				for i := range l.Versions {
					l.Versions[i].Stored = []cairn.Stored{{From: before, Format: cairn.FormatBlocks}}
					before = l.Versions[i].VersionID
				}
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// A chain of streams is applied one after the other, also over a change of size
// and over what became zero.
func TestFromAnArchive(t *testing.T) {
	b := newBench(t, "@a", "@b")
	resizes := b.src.Endpoint().Resizes
	zero := func() {
		if err := b.src.Write("db", 8192, make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	for i, size := range []int64{volume + 64<<10, volume - 32<<10} {
		if err := resizes.Resize(t.Context(), "db", size); err != nil {
			t.Fatal(err)
		}
		zero()
		name := []string{"@c", "@d"}[i]
		if got, err := b.src.Endpoint().Snapshots.Snapshot(t.Context(), name, []string{"db"}, false); err != nil || got[0].Err != nil {
			t.Fatal(err, got)
		}
	}
	dir := t.TempDir()
	for _, version := range []string{"@a", "@b", "@c", "@d"} {
		o := b.toFile(version, filepath.Join(dir, version))
		o.Source.Lister, o.Source.Blocks = archive{b.src.Endpoint().Lister}, nil
		r, err := restore.ToFile(t.Context(), o)
		if err != nil {
			t.Fatal(version, err)
		}
		sum := sha256.Sum256(b.isVersion(o.Path, version))
		if r.SHA256 != hex.EncodeToString(sum[:]) || r.Verified != (version == "@a") || r.Verified == (len(r.Notes) > 0) {
			t.Errorf("%s: %+v", version, r)
		}
	}
}
