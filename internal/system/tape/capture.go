package tape

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// captureSuffix ends the name of a captured index. The names are those that other
// LTFS tools give: BARCODE.schema is the newest, BARCODE-7.schema generation 7; a
// tape without barcode has its UUID there.
const captureSuffix = ".schema"

// Capture writes an index into a folder, as XML, and returns the file's path; the
// newest generation is written under its short name, too. A file is there whole or
// not at all.
func (t *Tape) Capture(dir string, ix *ltfs.Index) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fileError("capture index to", dir, err)
	}
	name := cmp.Or(t.barcode, t.label.VolumeUUID)
	file := filepath.Join(dir, name+"-"+strconv.FormatUint(ix.Generation, 10)+captureSuffix)
	for _, to := range []string{file, filepath.Join(dir, name+captureSuffix)} {
		if to != file && ix.Generation != t.index.Generation {
			break
		}
		if err := writeCapture(to, ix); err != nil {
			return "", fileError("capture index to", to, err)
		}
	}
	return file, nil
}

func writeCapture(file string, ix *ltfs.Index) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".capture-*")
	if err != nil {
		return err
	}
	_, err = ix.WriteTo(f)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// ReadCapture reads a captured index: a file, or from a folder of them that of a
// generation (0 is the newest). Captures of several tapes in one folder are told
// apart by naming the file.
func ReadCapture(from string, generation uint64) (*ltfs.Index, error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, fileError("read captured index", from, err)
	}
	if info.IsDir() {
		if from, err = captureIn(from, generation); err != nil {
			return nil, err
		}
	}
	ix, err := readCapture(from)
	if err == nil && generation != 0 && ix.Generation != generation {
		err = &cairn.Error{Op: "find generation in captured index", Subject: from, Kind: cairn.KindNotFound, Err: fmt.Errorf("it holds generation %d", ix.Generation)}
	}
	return ix, err
}

func readCapture(file string) (*ltfs.Index, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fileError("read captured index", file, err)
	}
	defer f.Close() //nolint:errcheck // read only
	ix, err := ltfs.ReadIndex(f)
	if err != nil {
		return nil, &cairn.Error{Op: "read captured index", Subject: file, Kind: cairn.KindCorrupt, Err: err}
	}
	return ix, nil
}

// captureIn chooses a file of a folder.
func captureIn(dir string, generation uint64) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fileError("read captured indexes", dir, err)
	}
	tapes := map[string]map[uint64]bool{}
	for _, e := range entries {
		name, isCapture := strings.CutSuffix(e.Name(), captureSuffix)
		cut := strings.LastIndexByte(name, '-')
		if !isCapture || cut < 0 {
			continue
		}
		if number, err := strconv.ParseUint(name[cut+1:], 10, 32); err == nil {
			if tapes[name[:cut]] == nil {
				tapes[name[:cut]] = map[uint64]bool{}
			}
			tapes[name[:cut]][number] = true
		}
	}
	if len(tapes) != 1 {
		return "", &cairn.Error{Op: "find captured index", Subject: dir, Kind: cairn.KindNotFound,
			Err: fmt.Errorf("it holds captures of %d tapes", len(tapes)), Hint: "name the file: " + filepath.Join(dir, "BARCODE-GENERATION"+captureSuffix)}
	}
	for name, numbers := range tapes {
		if generation == 0 {
			generation = slices.Max(slices.Collect(maps.Keys(numbers)))
		}
		if numbers[generation] {
			return filepath.Join(dir, name+"-"+strconv.FormatUint(generation, 10)+captureSuffix), nil
		}
	}
	return "", &cairn.Error{Op: "find captured index", Subject: dir, Kind: cairn.KindNotFound, Err: fmt.Errorf("generation %d was not captured", generation)}
}

// OpenCaptured is Open with a captured index in hand, for a tape whose own newest
// indexes cannot be read: the captured one counts where it is newer than what the
// tape holds. Recover writes it to the tape again.
func OpenCaptured(ctx context.Context, d drive.Drive, subject string, captured *ltfs.Index) (*Tape, error) {
	t, err := begin(ctx, d, subject)
	if err != nil {
		return nil, err
	}
	if captured.VolumeUUID != t.label.VolumeUUID {
		return nil, t.fail("open tape", cairn.KindConflict, "use a captured index of this tape", "the captured index is of volume %s, the tape is %s", captured.VolumeUUID, t.label.VolumeUUID)
	}
	if err := t.examineEnds(ctx); err != nil {
		return nil, err
	}
	if t.index == nil || captured.Generation > t.index.Generation {
		t.index = captured
		t.notes = append(t.notes, fmt.Sprintf("generation %d is known from a captured index only", captured.Generation))
	}
	t.describeEnds()
	return t, nil
}
