package wrap_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/testkit/memory"
)

// twoClients is a sink with a dataset of each of two clients, one of its own, and
// the views of both clients.
func twoClients(t *testing.T) (p *memory.Place, one, two *cairn.Endpoint) {
	t.Helper()
	p = memory.New("vault")
	for _, name := range []string{"sink/one/db", "sink/two/secret", "sink/one", "sink", "sink/onemore/db", "own"} {
		if err := p.Create(name, 64<<10); err != nil {
			t.Fatal(err)
		}
	}
	return p, must[*cairn.Endpoint](t)(wrap.Confine(p.Endpoint(), "sink", "one")), must[*cairn.Endpoint](t)(wrap.Confine(p.Endpoint(), "sink", "two"))
}

func names(t *testing.T, ep *cairn.Endpoint, q cairn.Query) []string {
	t.Helper()
	var all []string
	for l, err := range ep.Lister.List(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		if l.Dataset.Parent != "" {
			t.Errorf("%s has parent %q", l.Dataset.Name, l.Dataset.Parent)
		}
		all = append(all, l.Dataset.Name)
	}
	return all
}

func TestAClientSeesOnlyItsOwn(t *testing.T) {
	_, one, two := twoClients(t)
	if one.Info.Identity != "one" || one.Info.Place != "vault" {
		t.Errorf("info %+v", one.Info)
	}
	for _, q := range []cairn.Query{
		{Filter: cairn.All},
		{Filter: cairn.All, Names: []string{"db", "../two/secret", "secret", "sink/one/db", "/db", "own", "", ".", ".."}},
		{Filter: cairn.Filter{{Name: "db", Keep: true}, {Name: "../two", Subtree: true, Keep: true}, {Name: "/own", Keep: true}}},
		{Filter: cairn.Filter{{Name: "..", Subtree: true, Keep: true}, {Name: "db", Keep: true}, {Name: "../onemore/db", Keep: true}}},
	} {
		if got := names(t, one, q); !slices.Equal(got, []string{"db"}) {
			t.Errorf("%+v lists %v", q, got)
		}
	}
	if got := names(t, two, cairn.Query{Filter: cairn.All}); !slices.Equal(got, []string{"secret"}) {
		t.Errorf("the other client sees %v", got)
	}
}

func TestAClientReachesOnlyItsOwn(t *testing.T) {
	p, one, _ := twoClients(t)
	got := must[[]cairn.Captured](t)(p.Snapshot(t.Context(), "@a", []string{"sink/two/secret"}, false))
	id := got[0].Version.VersionID
	for _, name := range []string{"secret", "../two/secret", "sink/two/secret", "db/../../two/secret", "/sink/two/secret", "./secret"} {
		calls := map[string]error{
			"seal":     one.Seals.Seal(t.Context(), name, true),
			"resize":   one.Resizes.Resize(t.Context(), name, 4096),
			"rename":   one.Renames.Rename(t.Context(), name, "mine"),
			"rollback": one.Rollbacks.Rollback(t.Context(), name, id, true),
			"lease":    one.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: name, Owner: "x", Purpose: cairn.PurposePin, Versions: []cairn.VersionID{id}}),
		}
		_, calls["destroy"] = one.Destroys.Destroy(t.Context(), name, []cairn.VersionID{id})
		_, calls["bookmark"] = one.Bookmarks.Bookmark(t.Context(), name, id, "#x", true)
		_, calls["send"] = one.Sender.Send(t.Context(), cairn.Step{Dataset: name, To: id}, []cairn.Format{cairn.FormatBlocks})
		_, calls["estimate"] = one.Estimates.Estimate(t.Context(), []cairn.Step{{Dataset: name, To: id}})
		_, calls["open"] = one.Blocks.OpenVersion(t.Context(), name, id)
		_, calls["verify"] = one.Verifies.Verify(t.Context(), name, id)
		_, calls["heal"] = one.Heals.Heal(t.Context(), name, id, nil, cairn.HealOptions{})
		for _, calls["digest"] = range one.Digests.Digest(t.Context(), name, id, cairn.DigestQuery{Unit: cairn.BlockSize}) {
			break
		}
		for _, calls["changed"] = range one.Changes.Changed(t.Context(), name, id, id) {
			break
		}
		for call, err := range calls {
			if !errors.Is(err, cairn.KindInvalid) && !errors.Is(err, cairn.KindNotFound) {
				t.Errorf("%s of %q: %v", call, name, err)
			} else if strings.Contains(err.Error(), "sink/one") {
				t.Errorf("%s of %q tells of the place's names: %v", call, name, err)
			}
		}
	}
	if v := versions(t, p.Endpoint(), "sink/two/secret"); len(v) != 1 || len(v[0].Leases) > 0 {
		t.Errorf("the other client's dataset is %+v", v)
	}
}

// What is hostile is refused before the place sees it: a place that does not look is
// as safe as one that does.
func TestNothingHostileReachesThePlace(t *testing.T) {
	var seen []string
	trusting := &cairn.Endpoint{Renames: renameSpy{&seen}, Receiver: nameSpy{&seen}, Seals: nameSpy{&seen}}
	ep := must[*cairn.Endpoint](t)(wrap.Confine(trusting, "sink", "one"))
	for _, name := range []string{"../two/x", "", "/x", "a//b", "a/..", "a\x00b", strings.Repeat("x/", 125) + "x"} {
		if err := ep.Renames.Rename(t.Context(), "db", name); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("rename to %q: %v", name, err)
		}
		_, err := ep.Receiver.Receive(t.Context(), &cairn.Stream{Header: cairn.StreamHeader{Dataset: name}, Body: io.NopCloser(bytes.NewReader(nil))}, cairn.ReceiveOptions{})
		for _, err := range []error{err, ep.Renames.Rename(t.Context(), name, "db"), ep.Receiver.Abort(t.Context(), name), ep.Seals.Seal(t.Context(), name, false)} {
			if !errors.Is(err, cairn.KindInvalid) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	if err := ep.Renames.Rename(t.Context(), "db", "new"); err != nil || !slices.Equal(seen, []string{"sink/one/db", "sink/one/new"}) {
		t.Errorf("the place saw %q, %v", seen, err)
	}
}

type renameSpy struct{ seen *[]string }

func (s renameSpy) Rename(_ context.Context, from, to string) error {
	*s.seen = append(*s.seen, from, to)
	return nil
}

type nameSpy struct{ seen *[]string }

func (s nameSpy) note(name string) error {
	*s.seen = append(*s.seen, name)
	return nil
}
func (s nameSpy) Seal(_ context.Context, ds string, _ bool) error { return s.note(ds) }
func (s nameSpy) Abort(_ context.Context, ds string) error        { return s.note(ds) }
func (s nameSpy) Receive(_ context.Context, st *cairn.Stream, _ cairn.ReceiveOptions) (cairn.Received, error) {
	return cairn.Received{}, s.note(st.Header.Dataset)
}

func TestAnIdentityIsOneComponent(t *testing.T) {
	p := memory.New("vault")
	for _, bad := range []string{"", "..", ".", "a/b", "../x", "a\x00", "a@b", " a", strings.Repeat("x", 300)} {
		if _, err := wrap.Confine(p.Endpoint(), "sink", bad); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("identity %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"/", "a//b", "..", "a/"} {
		if _, err := wrap.Confine(p.Endpoint(), bad, "one"); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("root %q: %v", bad, err)
		}
		if _, err := wrap.Rebase(p.Endpoint(), bad); !errors.Is(err, cairn.KindInvalid) {
			t.Errorf("prefix %q: %v", bad, err)
		}
	}
	if ep, err := wrap.Confine(p.Endpoint(), "", "one"); err != nil || ep == nil {
		t.Errorf("without a root: %v", err)
	}
}

// An ability that the place gains one day is not let through by accident: what a
// confined endpoint offers is never the place's own, and an append-only one offers
// no more than its list.
func TestRightsBeginEmpty(t *testing.T) {
	full := memory.New("vault").Endpoint()
	confined := must[*cairn.Endpoint](t)(wrap.Confine(full, "sink", "one"))
	a, b := reflect.ValueOf(*full), reflect.ValueOf(*confined)
	for i := range a.NumField() {
		name := a.Type().Field(i).Name
		if a.Field(i).Kind() == reflect.Interface && !b.Field(i).IsNil() && b.Field(i).Interface() == a.Field(i).Interface() {
			t.Errorf("confine lets the place's own %s through", name)
		}
	}
	if !slices.Equal(confined.Abilities(), full.Abilities()) {
		t.Errorf("confine offers %v of %v", confined.Abilities(), full.Abilities())
	}
	bare := must[*cairn.Endpoint](t)(wrap.Confine(&cairn.Endpoint{}, "sink", "one"))
	if got := append(bare.Abilities(), wrap.AppendOnly(&cairn.Endpoint{}).Abilities()...); len(got) > 0 {
		t.Errorf("wrappers of an endpoint that can nothing offer %v", got)
	}
	append1 := wrap.AppendOnly(full)
	if want := []cairn.Ability{"list", "send", "receive", "lease", "estimate", "blocks", "changes", "verify", "digest"}; !slices.Equal(append1.Abilities(), want) {
		t.Errorf("append-only offers %v, want %v", append1.Abilities(), want)
	}
	if !append1.Info.AppendOnly || full.Info.AppendOnly {
		t.Error("append-only is not announced, or changed the endpoint below")
	}
}

func TestAppendOnlyKeepsTheLeasesOfOthers(t *testing.T) {
	p, ids := threeVersions(t)
	ep := wrap.AppendOnly(p.Endpoint())
	for purpose := cairn.PurposePlan; purpose <= cairn.PurposeForeign+1; purpose++ {
		err := ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db", Owner: "x", Purpose: purpose, Versions: ids[:1]})
		if allowed := purpose <= cairn.PurposeReceived; allowed != (err == nil) || !allowed && !errors.Is(err, cairn.KindPermission) {
			t.Errorf("%s: %v", purpose, err)
		}
	}
}

func TestOwnedWritesTheServingJobsName(t *testing.T) {
	p, ids := threeVersions(t)
	ep := wrap.Owned(p.Endpoint(), "sink")
	if err := ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: "db", Owner: "client's job", Purpose: cairn.PurposeReceived, Versions: ids[:1]}); err != nil {
		t.Fatal(err)
	}
	if got := versions(t, ep, "db")[0].Leases; len(got) != 1 || got[0].Owner != "sink" {
		t.Errorf("leases %+v", got)
	}
	var owner string
	r := p.Endpoint()
	r.Receiver = ownerSpy{r.Receiver, &owner}
	_, _ = wrap.Owned(r, "sink").Receiver.Receive(t.Context(), &cairn.Stream{Body: io.NopCloser(bytes.NewReader(nil))}, cairn.ReceiveOptions{Owner: "client's job"})
	if owner != "sink" {
		t.Errorf("received for %q", owner)
	}
}

type ownerSpy struct {
	cairn.Receiver
	owner *string
}

func (s ownerSpy) Receive(_ context.Context, _ *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	*s.owner = o.Owner
	return cairn.Received{}, nil
}

func TestLimitHoldsStreamsToTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rate = 4 << 20, 1 << 20
		p := memory.New("here")
		if err := p.Create("db", size); err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, size)
		for i := range noise {
			noise[i] = byte(i * i >> 7 * (i%251 + 1))
		}
		if err := p.Write("db", 0, noise); err != nil {
			t.Fatal(err)
		}
		got := must[[]cairn.Captured](t)(p.Snapshot(t.Context(), "@a", []string{"db"}, false))
		step := cairn.Step{Dataset: "db", To: got[0].Version.VersionID}
		slow := wrap.Limit(p.Endpoint(), wrap.NewBucket(rate, 0), wrap.NewBucket(rate, 0))
		measure := func(read func() int64) {
			t.Helper()
			begin := time.Now()
			n := read()
			took, want := time.Since(begin), time.Duration(float64(n-128<<10)/rate*float64(time.Second))
			if took < want*99/100 || took > want*101/100+time.Second/10 {
				t.Errorf("%d bytes took %s, want about %s", n, took, want)
			}
		}
		measure(func() int64 {
			s := must[*cairn.Stream](t)(slow.Sender.Send(t.Context(), step, []cairn.Format{cairn.FormatBlocks}))
			defer s.Body.Close()
			return must[int64](t)(io.Copy(io.Discard, s.Body))
		})
		measure(func() int64 {
			s := must[*cairn.Stream](t)(p.Send(t.Context(), step, []cairn.Format{cairn.FormatBlocks}))
			s.Header.Dataset = "copy"
			r := must[cairn.Received](t)(slow.Receiver.Receive(t.Context(), s, cairn.ReceiveOptions{}))
			return r.Bytes
		})
	})
}

func TestLimitedReadEndsWithItsContextAndItsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, ids := threeVersions(t)
		crawl := wrap.Limit(p.Endpoint(), wrap.NewBucket(1, 100), nil)
		for _, end := range []string{"cancel", "close"} {
			ctx, cancel := context.WithCancel(t.Context())
			s := must[*cairn.Stream](t)(crawl.Sender.Send(ctx, cairn.Step{Dataset: "db", To: ids[0]}, []cairn.Format{cairn.FormatBlocks}))
			time.AfterFunc(5*time.Second, func() {
				if end == "cancel" {
					cancel()
				} else {
					s.Body.Close()
				}
			})
			begin := time.Now()
			_, err := io.Copy(io.Discard, s.Body)
			if !errors.Is(err, context.Canceled) || !errors.Is(err, cairn.KindCanceled) || time.Since(begin) > 6*time.Second {
				t.Errorf("%s: %v after %s", end, err, time.Since(begin))
			}
			s.Body.Close()
			cancel()
		}
	})
}
