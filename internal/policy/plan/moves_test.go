package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/policy/plan"
)

func TestMoves(t *testing.T) {
	for _, c := range []struct {
		name, strangers, missing, shared, want string // words "name,guid"; missing with all GUIDs: "name,1,2"
	}{
		{name: "renamed", strangers: "a,2", missing: "b,1,2,3", want: "a>b"},
		{name: "the newest there is unknown here", strangers: "a,9", missing: "b,1,2,3"},
		{name: "nothing is missing", strangers: "a,2"},
		{name: "with what lies below it", strangers: "a,1 a/x,2 a/y,3", missing: "b,1 b/x,2 b/y,3", want: "a>b b/x along after b b/y along after b"},
		{name: "what lay below it went elsewhere, later", strangers: "a,1 a/x,2", missing: "b,1 k,2", want: "a>b b/x>k after b"},
		{name: "what lay below it went elsewhere, before", strangers: "o,1 o/x,2", missing: "k,2 z,1", want: "o/x>k o>z after k"},
		{name: "moved inside what moved", strangers: "a,1 a/x,2 a/x/y,3", missing: "b,1 b/p,2 b/p/y,3", want: "a>b b/x>b/p after b b/p/y along after b b/p"},
		{name: "twice at the receiver", strangers: "a,1 b,1", missing: "c,1", want: "c: twice"},
		{name: "two at the sender", strangers: "a,1", missing: "b,1 c,1,2", want: "b: 2 datasets c: 2 datasets"},
		{name: "below itself", strangers: "a,1", missing: "a/b,1", want: "a/b: below itself"},
		{name: "something below it stays", strangers: "a,1", missing: "b,1", shared: "a-b a/x z", want: "b: a/x"},
		{name: "a name that only looks as if", strangers: "a,1", missing: "b,1", shared: "a-b a.x ab", want: "a>b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var strangers []plan.Stranger
			for w := range strings.FieldsSeq(c.strangers) {
				l := numbered(w)
				strangers = append(strangers, plan.Stranger{Name: l.Dataset.Name, Newest: l.Versions[0].GUID})
			}
			var missing []*cairn.Listing
			for w := range strings.FieldsSeq(c.missing) {
				missing = append(missing, numbered(w))
			}
			moves := plan.Moves(strangers, missing, strings.Fields(c.shared))
			var got []string
			for _, m := range moves {
				got = append(got, shown(m, c.want))
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("got %q, want %q", text, c.want)
			}
		})
	}
}

// numbered makes a dataset of "name,1,2".
func numbered(words string) *cairn.Listing {
	name, guids, _ := strings.Cut(words, ",")
	l := &cairn.Listing{Dataset: cairn.Dataset{Name: name}}
	for g := range strings.SplitSeq(guids, ",") {
		var n int
		_, _ = fmt.Sscan(g, &n)
		l.Versions = append(l.Versions, cairn.Version{VersionID: cairn.VersionID{Name: "@" + g, GUID: cairn.GUID(n)}, Order: uint64(n)})
	}
	return l
}

// shown is a move in words; of why it is unsafe, what the wanted text has of it.
func shown(m plan.Move, want string) string {
	switch {
	case m.Unsafe != "":
		for _, why := range []string{"twice", "2 datasets", "below itself", "a/x"} {
			if strings.Contains(m.Unsafe, why) && strings.Contains(want, m.To+": "+why) {
				return m.To + ": " + why
			}
		}
		return m.To + ": " + m.Unsafe
	case m.Rename == "":
		return strings.Join(slices.Concat([]string{m.To, "along after"}, m.After), " ")
	case len(m.After) > 0:
		return strings.Join(slices.Concat([]string{m.Rename + ">" + m.To, "after"}, m.After), " ")
	}
	return m.Rename + ">" + m.To
}
