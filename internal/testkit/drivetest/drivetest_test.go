package drivetest_test

import (
	"slices"
	"testing"

	"cairn/internal/testkit/drivetest"
	"cairn/internal/testkit/faketape"
)

// Equal drives and seeds give equal answers; another medium or another seed does not.
func TestScriptIsASeeds(t *testing.T) {
	answers := func(seed uint64, partitions int) []string {
		d := faketape.New()
		if err := d.Format(t.Context(), partitions); err != nil {
			t.Fatal(err)
		}
		return drivetest.Script(t.Context(), d, seed, 100)
	}
	first := answers(1, 2)
	if len(first) < 100 || !slices.Equal(first, answers(1, 2)) {
		t.Errorf("%d answers, and others the second time", len(first))
	}
	if slices.Equal(first, answers(2, 2)) {
		t.Error("two seeds give the same answers")
	}
	if slices.Equal(first, answers(1, 1)) {
		t.Error("a medium of one partition gives the same answers")
	}
}
