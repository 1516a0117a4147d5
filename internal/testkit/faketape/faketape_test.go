package faketape_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/faketape"
)

// The double behaves as the folder drive does: one random script on both, every
// answer compared.
func TestSameAsFolderDrive(t *testing.T) {
	for seed := range uint64(20) {
		folder, err := drive.CreateFolder(filepath.Join(t.TempDir(), "T"), drive.FolderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		fake := faketape.New()
		for _, d := range []drive.Drive{folder, fake} {
			if err := d.Format(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
		}
		a, b := script(t.Context(), folder, seed), script(t.Context(), fake, seed)
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("seed %d, step %d: the folder says %s, the double %s", seed, i, a[i], b[i])
			}
		}
	}
}

func script(ctx context.Context, d drive.Drive, seed uint64) (answers []string) {
	rng := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, 1000)
	say := func(what string, n int, err error) {
		word := "ok"
		switch {
		case errors.Is(err, drive.ErrFilemark):
			word = "filemark"
		case errors.Is(err, drive.ErrEndOfData):
			word = "end"
		case err != nil:
			word = "error"
		}
		p, _ := d.Position(ctx)
		answers = append(answers, fmt.Sprintf("%s %d %s at %v", what, n, word, p))
	}
	for range 200 {
		switch rng.IntN(7) {
		case 0, 1:
			_, err := d.Write(ctx, bytes.Repeat([]byte{'x'}, 1+rng.IntN(500)))
			say("write", 0, err)
		case 2:
			say("filemark", 0, d.WriteFilemarks(ctx, 1, rng.IntN(2) == 0))
		case 3:
			n, err := d.Read(ctx, buf)
			say("read", n, err)
		case 4:
			say("locate", 0, d.Locate(ctx, drive.Position{Partition: rng.IntN(2), Block: rng.Uint64N(12)}))
		case 5:
			err := d.SpaceFilemarks(ctx, rng.IntN(7)-3)
			say("space", 0, err)
		case 6:
			_, err := d.SeekEnd(ctx, rng.IntN(2))
			say("end", 0, err)
		}
	}
	return answers
}
