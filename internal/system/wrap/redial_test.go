package wrap_test

import (
	"context"
	"errors"
	"testing"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/memory"
)

// lost is a peer whose sessions the test can cut.
type lost struct {
	place  *memory.Place
	dials  int
	closed int
	cut    bool // the present session fails every call
	away   bool // the peer cannot be dialled
}

func (l *lost) dial(context.Context) (*cairn.Endpoint, error) {
	if l.away {
		return nil, &cairn.Error{Op: "connect", Kind: cairn.KindUnavailable}
	}
	l.dials++
	l.cut = false
	ep := *l.place.Endpoint()
	ep.Leases = leaser{l}
	ep.Close = func() error { l.closed++; return nil }
	return &ep, nil
}

type leaser struct{ l *lost }

func (s leaser) SetLease(context.Context, cairn.LeaseSet) error {
	if s.l.cut {
		return &cairn.Error{Op: "lease", Kind: cairn.KindUnavailable}
	}
	return nil
}

func TestRedialOpensANewSessionAfterALoss(t *testing.T) {
	l := &lost{place: memory.New("m")}
	ep, err := wrap.Redial(t.Context(), l.dial)
	if err != nil {
		t.Fatal(err)
	}
	lease := func() error { return ep.Leases.SetLease(t.Context(), cairn.LeaseSet{}) }
	if err := lease(); err != nil || l.dials != 1 {
		t.Fatalf("%v after %d dials", err, l.dials)
	}
	l.cut = true
	if err := lease(); !errors.Is(err, cairn.KindUnavailable) || l.dials != 1 {
		t.Fatalf("the call that lost the session: %v after %d dials; nothing is retried here", err, l.dials)
	}
	l.away = true
	if err := lease(); !errors.Is(err, cairn.KindUnavailable) {
		t.Fatalf("while the peer is away: %v", err)
	}
	l.away = false
	if err := lease(); err != nil || l.dials != 2 {
		t.Fatalf("the call after the loss: %v after %d dials", err, l.dials)
	}
	if err := ep.Close(); err != nil || l.closed != 2 {
		t.Fatalf("%d of 2 sessions closed, %v", l.closed, err)
	}
	if err := lease(); !errors.Is(err, cairn.KindCanceled) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestRedialKeepsItsSessionAfterOtherErrors(t *testing.T) {
	l := &lost{place: memory.New("m")}
	ep, err := wrap.Redial(t.Context(), l.dial)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ep.Destroys.Destroy(t.Context(), "missing", []cairn.VersionID{{Name: "@a", GUID: 1}}); !errors.Is(err, cairn.KindNotFound) {
		t.Fatalf("%v", err)
	}
	for _, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All}) {
		t.Fatal(err)
	}
	if l.dials != 1 {
		t.Errorf("%d dials", l.dials)
	}
}

func TestRedialOffersWhatTheFirstSessionCan(t *testing.T) {
	full := memory.New("m").Endpoint()
	for _, base := range []*cairn.Endpoint{full, {Lister: full.Lister}, {}} {
		ep, err := wrap.Redial(t.Context(), func(context.Context) (*cairn.Endpoint, error) { return base, nil })
		if err != nil {
			t.Fatal(err)
		}
		got, want := ep.Abilities(), base.Abilities()
		if len(got) != len(want) {
			t.Errorf("offers %v of %v", got, want)
		}
	}
}
