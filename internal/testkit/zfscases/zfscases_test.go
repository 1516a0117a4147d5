package zfscases_test

import (
	"testing"

	"cairn/internal/testkit/zfscases"
)

// Each case can be asked for by its name, and none was lost from the list.
func TestCasesHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range zfscases.Cases() {
		if c.Name == "" || c.Run == nil || seen[c.Name] {
			t.Errorf("case %q has no name of its own, or does nothing", c.Name)
		}
		seen[c.Name] = true
	}
	for _, name := range []string{"ResumeTokenParsing", "UndestroyableSnapshotParsing"} {
		if !seen[name] {
			t.Errorf("no case %s", name)
		}
	}
	if len(seen) < 68 {
		t.Errorf("only %d cases", len(seen))
	}
}
