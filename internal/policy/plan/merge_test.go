package plan_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/policy/plan"
)

// named lists datasets without versions; "!" is an error.
func named(names ...string) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for _, n := range names {
			var err error
			if n == "!" {
				err = &cairn.Error{Op: "list", Kind: cairn.KindUnavailable}
			}
			if !yield(&cairn.Listing{Dataset: cairn.Dataset{Name: n}}, err) {
				return
			}
		}
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct {
		sender, receiver []string
		want             string
		kind             cairn.Kind
	}{
		{sender: []string{"a", "b", "d"}, receiver: []string{"b", "c", "e"}, want: "a- bb -c d- -e"},
		{sender: []string{"a"}, want: "a-"},
		{receiver: []string{"a"}, want: "-a"},
		{want: ""},
		{sender: []string{"tank", "tank-x", "tank/a"}, receiver: []string{"tank", "tank/a"}, want: "tanktank tank-x- tank/atank/a"},
		{sender: []string{"a", "!"}, receiver: []string{"a", "b"}, want: "aa", kind: cairn.KindUnavailable},
		{sender: []string{"a", "b"}, receiver: []string{"a", "!"}, want: "aa", kind: cairn.KindUnavailable},
		{sender: []string{"b", "a"}, want: "b-", kind: cairn.KindCorrupt},
		{sender: []string{"b", "b"}, want: "b-", kind: cairn.KindCorrupt},
	} {
		var got []string
		var kind cairn.Kind
		for pair, err := range plan.Merge(named(c.sender...), named(c.receiver...)) {
			if err != nil {
				kind = cairn.KindOf(err)
				continue
			}
			s, r := "-", "-"
			if pair.Sender != nil {
				s = pair.Sender.Dataset.Name
			}
			if pair.Receiver != nil {
				r = pair.Receiver.Dataset.Name
			}
			if pair.Name != s && pair.Name != r {
				t.Errorf("%v: pair is called %s", c, pair.Name)
			}
			got = append(got, s+r)
		}
		if strings.Join(got, " ") != c.want || kind != c.kind {
			t.Errorf("%+v: got %v, %v", c, got, kind)
		}
	}
}

func TestMergeOfNoReceiver(t *testing.T) {
	n := 0
	for _, err := range plan.Merge(named("a", "b"), nil) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d pairs", n)
	}
}

// Leaving the loop ends both listings.
func TestMergeStops(t *testing.T) {
	ended := 0
	endless := func(yield func(*cairn.Listing, error) bool) {
		defer func() { ended++ }()
		for i := 0; yield(&cairn.Listing{Dataset: cairn.Dataset{Name: fmt.Sprintf("%09d", i)}}, nil); i++ {
		}
	}
	for range plan.Merge(endless, endless) {
		break
	}
	if ended != 2 {
		t.Errorf("%d of 2 listings ended", ended)
	}
}

// Planning holds one dataset at a time.
func TestMergeHoldsOneDataset(t *testing.T) {
	held, most := 0, 0
	counted := func(yield func(*cairn.Listing, error) bool) {
		for i := range 50 {
			held++
			most = max(most, held)
			if !yield(&cairn.Listing{Dataset: cairn.Dataset{Name: fmt.Sprintf("%09d", i)}}, nil) {
				return
			}
		}
	}
	for pair, err := range plan.Merge(counted, counted) {
		if err != nil {
			t.Fatal(err)
		}
		held -= 2
		_ = pair
	}
	if most > 2 {
		t.Errorf("%d listings were held at once, want one per side", most)
	}
}

func TestMergeEndsWithFirstError(t *testing.T) {
	pairs := slices.Collect(func(yield func(error) bool) {
		for _, err := range plan.Merge(named("a", "!", "c"), nil) {
			if !yield(err) {
				return
			}
		}
	})
	if len(pairs) != 2 || !errors.Is(pairs[1], cairn.KindUnavailable) {
		t.Errorf("%v", pairs)
	}
}
