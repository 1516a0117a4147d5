package cairn_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cairn"
)

func TestErrorSaysOperationSubjectCauseAndHint(t *testing.T) {
	err := error(&cairn.Error{Op: "destroy", Subject: "db@a", Place: "vault", Kind: cairn.KindBusy,
		Err: errors.New("leased by nightly"), Hint: "wait for the step"})
	want := "cannot destroy db@a at vault: leased by nightly (wait for the step)"
	if err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	wrapped := fmt.Errorf("prune: %w", err)
	if !errors.Is(wrapped, cairn.KindBusy) || errors.Is(wrapped, cairn.KindSpace) {
		t.Error("errors.Is does not see the kind through a wrap")
	}
	if cairn.KindOf(wrapped) != cairn.KindBusy || cairn.HintOf(wrapped) != "wait for the step" {
		t.Errorf("KindOf %v, HintOf %q", cairn.KindOf(wrapped), cairn.HintOf(wrapped))
	}
}

func TestKindsHaveDistinctNames(t *testing.T) {
	seen := map[string]cairn.Kind{}
	for _, k := range cairn.Kinds() {
		if other, dup := seen[k.String()]; dup || strings.HasPrefix(k.String(), "kind ") {
			t.Errorf("kind %d has name %q, taken by %d or missing", k, k, other)
		}
		seen[k.String()] = k
	}
}

func TestParseAddress(t *testing.T) {
	for _, c := range []struct {
		in   string
		want cairn.Address
		bad  bool
	}{
		{in: "db", want: cairn.Address{Dataset: "db"}},
		{in: "tank/a b@x:1", want: cairn.Address{Dataset: "tank/a b", Version: "@x:1"}},
		{in: "volume:db#m", want: cairn.Address{Qualifier: "volume", Dataset: "db", Version: "#m"}},
		{in: "zfs:tank", want: cairn.Address{Qualifier: "zfs", Dataset: "tank"}},
		{in: "", bad: true}, {in: "/a", bad: true}, {in: "a//b", bad: true}, {in: "a/../b", bad: true},
		{in: "a@", bad: true}, {in: "a@b@c", bad: true}, {in: "a@b/c", bad: true}, {in: "a\x00", bad: true},
		{in: "a\nb", bad: true}, {in: strings.Repeat("x", 256), bad: true},
	} {
		got, err := cairn.ParseAddress(c.in)
		if c.bad {
			if !errors.Is(err, cairn.KindInvalid) {
				t.Errorf("%q: error %v, want KindInvalid", c.in, err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%q: got %+v, %v", c.in, got, err)
		}
		if got.String() != c.in {
			t.Errorf("%q renders as %q", c.in, got)
		}
	}
}

func TestFilterPrecedence(t *testing.T) {
	f, err := cairn.ParseFilter(map[string]bool{"<": false, "tank<": true, "tank/scratch<": false, "tank/scratch": true})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"tank": true, "tank/a/b": true, "tank/scratch": true, "tank/scratch/x": false, "tanker": false, "other": false,
	} {
		if f.Match(name) != want {
			t.Errorf("%s: match %v, want %v", name, !want, want)
		}
	}
	if (cairn.Filter{}).Match("x") || !cairn.All.Match("x") {
		t.Error("empty filter selects, or All does not")
	}
}

func TestGUIDRoundTrip(t *testing.T) {
	g := cairn.GUID(0xdeadbeef)
	back, err := cairn.ParseGUID(g.String())
	if err != nil || back != g {
		t.Errorf("%v %v", back, err)
	}
	for _, bad := range []string{"", "12", strings.Repeat("g", 16), strings.Repeat("0", 17)} {
		if _, err := cairn.ParseGUID(bad); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestAbilitiesNameTheFields(t *testing.T) {
	e := &cairn.Endpoint{}
	if len(e.Abilities()) != 0 {
		t.Errorf("an empty endpoint claims %v", e.Abilities())
	}
}
