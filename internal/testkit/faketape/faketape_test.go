package faketape_test

import (
	"path/filepath"
	"testing"

	"cairn/internal/system/tape/drive"
	"cairn/internal/testkit/drivetest"
	"cairn/internal/testkit/faketape"
)

// The double behaves as the folder drive does: one random script on both, every
// answer compared.
func TestSameAsFolderDrive(t *testing.T) {
	for seed := range uint64(8) {
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
		a, b := drivetest.Script(t.Context(), folder, seed, 200), drivetest.Script(t.Context(), fake, seed, 200)
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("seed %d, step %d: the folder says %s, the double %s", seed, i, a[i], b[i])
			}
		}
	}
}
