package zfscases

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/policy/plan"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
	"cairn/internal/work/replicate"
)

// replicationCases go through the verb, between two pools.
var replicationCases = []Case{
	{"ReplicationFailingInitialParentProhibitsChildReplication", failingParent},
	{"ReplicationIncrementalCleansUpStaleAbstractionsWithCacheOnSecondReplication", func(t *testing.T, w *World) { cleansUp(t, w, false) }},
	{"ReplicationIncrementalCleansUpStaleAbstractionsWithoutCacheOnSecondReplication", func(t *testing.T, w *World) { cleansUp(t, w, true) }},
	{"ReplicationIncrementalDestroysStepHoldsIffIncrementalStepHoldsAreDisabledButStepHoldsExist", destroysStepHolds},
	{"ReplicationIncrementalHandlesFromVersionEqTentativeCursorCorrectly", fromTentative},
	{"ReplicationIncrementalIsPossibleIfCommonSnapshotIsDestroyed", commonDestroyed},
	{"ReplicationInitialAll", initialAll},
	{"ReplicationInitialFail", initialFail},
	{"ReplicationInitialMostRecent", initialMostRecent},
	{"ReplicationIsResumableFullSend__both_GuaranteeResumability", func(t *testing.T, w *World) { resumableFull(t, w, replicate.Protection{}) }},
	{"ReplicationIsResumableFullSend__initial_GuaranteeIncremental_incremental_GuaranteeResumability", func(t *testing.T, w *World) {
		resumableFull(t, w, replicate.Protection{Initial: replicate.Incremental})
	}},
	{"ReplicationIsResumableFullSend__initial_GuaranteeNothing_incremental_GuaranteeIncremental", func(t *testing.T, w *World) {
		resumableFull(t, w, replicate.Protection{Initial: replicate.Nothing, Incremental: replicate.Incremental})
	}},
	{"ReplicationGivesDeadTokenUp", deadTokenRun},
	{"ReplicationOfPlaceholderFilesystemsInChainedReplicationScenario", chained},
	{"ReplicationPlaceholderEncryption__EncryptOnReceiverUseCase__WorksIfConfiguredWithInherit", encryptOnReceiver},
	{"ReplicationPlaceholderEncryption__UnspecifiedIsOkForClientIdentityPlaceholder", unspecifiedIdentity},
	{"ReplicationPlaceholderEncryption__UnspecifiedLeadsToFailureAtRuntimeWhenCreatingPlaceholders", unspecifiedFails},
	{"ReplicationPropertyReplicationWorks", properties},
	{"ReplicationReceiverErrorWhileStillSending", receiverError},
	{"ReplicationStepCompletedLostBehavior__GuaranteeIncrementalReplication", func(t *testing.T, w *World) {
		completedLost(t, w, replicate.Protection{Initial: replicate.Incremental, Incremental: replicate.Incremental})
	}},
	{"ReplicationStepCompletedLostBehavior__GuaranteeResumability", func(t *testing.T, w *World) { completedLost(t, w, replicate.Protection{}) }},
}

func cursorOf(id cairn.VersionID) string {
	return "#zrepl_CURSOR_G_" + id.GUID.String() + "_J_" + owner
}

// marksOf are the marks of the job on a dataset, as words.
func (l *lab) marksOf(name string) []string {
	l.Helper()
	all, err := l.place.Marks(l.Context(), cairn.Filter{{Name: name, Keep: true}})
	l.ok(err)
	var words []string
	for _, m := range all {
		words = append(words, m.Owner+" "+m.Purpose.String()+" "+m.Version.Name)
	}
	slices.Sort(words)
	return words
}

func (l *lab) wantMarks(name string, want ...string) {
	l.Helper()
	slices.Sort(want)
	if got := l.marksOf(name); !slices.Equal(got, want) {
		l.Errorf("%s has marks %q, want %q", name, got, want)
	}
}

func failingParent(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	top := p.filesystem("a", "1")
	p.filesystem("a/child", "1")
	p.filesystem("b", "1")
	receiver := *p.receiver
	receiver.Receiver = failingReceiver{p.receiver.Receiver, top}
	p.options.Receiver = &receiver
	r, err := p.replicate()
	p.want("a run whose parent fails", err, cairn.KindSpace)
	for _, d := range r.Datasets {
		good := d.State == replicate.Done
		if good != strings.HasSuffix(d.Dataset, "/b") {
			t.Errorf("%s: %s, %s", d.Dataset, d.State, d.Error)
		}
	}
	p.there.wantNames(p.target(top) + "/child")
	p.there.wantNames(p.target(p.pool+"/b"), "@1")
}

// failingReceiver takes nothing for one dataset.
type failingReceiver struct {
	cairn.Receiver
	dataset string
}

func (f failingReceiver) Receive(ctx context.Context, s *cairn.Stream, o cairn.ReceiveOptions) (cairn.Received, error) {
	if s.Header.Dataset == f.dataset {
		return cairn.Received{}, errors.Join(&cairn.Error{Op: "receive", Subject: f.dataset, Kind: cairn.KindSpace}, s.Body.Close())
	}
	return f.Receiver.Receive(ctx, s, o)
}

func cleansUp(t *testing.T, w *World, forget bool) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("a", "1", "2")
	p.mustReplicate()
	one, two := p.id(fs, "@1"), p.id(fs, "@2")
	p.wantMarks(fs, "j cursor "+cursorOf(two))
	p.there.wantMarks(p.target(fs), "j received @2")
	p.lease(fs, owner, cairn.PurposeStep, one)
	p.lease(fs, owner, cairn.PurposeTentative, one)
	p.lease(fs, "unrelated", cairn.PurposeStep, one)
	if forget { // another process
		p.place, p.there.place = w.open(t, zfs.Options{}), w.open(t, zfs.Options{})
	}
	p.zfs("snapshot", fs+"@3")
	p.connect(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	p.mustReplicate()
	p.wantMarks(fs, "j cursor "+cursorOf(p.id(fs, "@3")), "unrelated step @1")
	p.there.wantMarks(p.target(fs), "j received @3")
}

func destroysStepHolds(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("a", "1")
	p.mustReplicate()
	p.lease(fs, owner, cairn.PurposeStep, p.id(fs, "@1"))
	p.zfs("snapshot", fs+"@2")
	p.options.Protect.Incremental = replicate.Incremental
	p.mustReplicate()
	p.wantMarks(fs, "j cursor "+cursorOf(p.id(fs, "@2")))
}

func fromTentative(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("a", "1")
	p.options.Protect = replicate.Protection{Initial: replicate.Incremental, Incremental: replicate.Incremental}
	sender := *p.sender
	sender.Leases = failingLeaser{p.sender.Leases, cairn.PurposeCursor}
	p.options.Sender = &sender
	if _, err := p.replicate(); err == nil {
		t.Fatal("a run that could not set its cursor succeeded")
	}
	one := p.id(fs, "@1")
	p.wantMarks(fs, "j tentative #zrepl_CURSORTENTATIVE__G_"+one.GUID.String()+"_J_j")
	p.ok(p.destroy(fs, one))
	p.zfs("snapshot", fs+"@2")
	p.options.Sender = p.sender
	p.mustReplicate()
	p.there.wantNames(p.target(fs), "@1", "@2")
	p.wantMarks(fs, "j cursor "+cursorOf(p.id(fs, "@2")))
}

// failingLeaser loses one purpose.
type failingLeaser struct {
	cairn.Leaser
	purpose cairn.Purpose
}

func (f failingLeaser) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	if set.Purpose == f.purpose {
		return &cairn.Error{Op: "lease", Subject: set.Dataset, Kind: cairn.KindUnavailable, Err: errors.New("the answer was lost")}
	}
	return f.Leaser.SetLease(ctx, set)
}

func commonDestroyed(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.zvol("a", "1")
	p.mustReplicate()
	p.ok(p.destroy(vol, p.id(vol, "@1"))) // its cursor stays
	p.fill(vol, "2")
	p.zfs("snapshot", vol+"@2")
	p.connect(zfs.Job{})
	p.mustReplicate()
	p.there.wantNames(p.target(vol), "@1", "@2")
	p.wantSame(vol+"@2", p.target(vol)+"@2")
}

func initialAll(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.zvol("a", "1", "2", "3")
	p.options.Initial = plan.All
	p.mustReplicate()
	p.there.wantNames(p.target(vol), "@1", "@2", "@3")
	for _, s := range []string{"@1", "@2", "@3"} {
		p.wantSame(vol+s, p.target(vol)+s)
	}
}

func initialFail(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("a", "1", "2")
	p.options.Initial = plan.Fail
	_, err := p.replicate()
	var c *plan.Conflict
	if !errors.As(err, &c) {
		t.Errorf("got %v", err)
	}
	p.there.wantNames(p.target(fs))
}

func initialMostRecent(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("a", "1", "2", "3")
	p.mustReplicate()
	p.there.wantNames(p.target(fs), "@3")
	if !p.there.list(p.target(fs)).Dataset.Sealed {
		t.Error("the replica is not sealed")
	}
}

// cutSender breaks the first stream after some bytes, and sends no other.
type cutSender struct {
	cairn.Sender
	after *int64 // bytes of the next stream; negative: no more streams
}

func (c cutSender) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	if *c.after < 0 {
		return nil, errLine
	}
	s, err := c.Sender.Send(ctx, step, accept)
	if err == nil {
		s.Body = cutBody{broken{io.LimitReader(s.Body, *c.after)}, s.Body}
		*c.after = -1
	}
	return s, err
}

type cutBody struct {
	io.Reader
	io.Closer
}

func resumableFull(t *testing.T, w *World, protect replicate.Protection) {
	p := w.pair(t, zfs.Job{})
	vol := p.big("a")
	after := int64(zvolBytes / 2)
	sender := *p.sender
	sender.Sender = cutSender{p.sender.Sender, &after}
	p.options.Sender, p.options.Protect = &sender, protect
	_, err := p.replicate()
	p.want("a run whose line is cut", err, cairn.KindUnavailable)
	if p.there.list(p.target(vol)).Partial == nil {
		t.Fatal("nothing was kept")
	}
	held := slices.Contains(p.marksOf(vol), "j step @b")
	if held != (protect.Initial == replicate.Resumability) {
		t.Errorf("after the cut there are marks %q", p.marksOf(vol))
	}
	p.zfs("snapshot", vol+"@c")
	p.connect(zfs.Job{})
	p.options.Protect = protect
	r := p.mustReplicate()
	first := r.Datasets[0].Attempts[0].Steps[0]
	if !first.Resumed || first.BytesMoved > zvolBytes*3/4 {
		t.Errorf("the first step of the second run is %+v", first)
	}
	p.there.wantNames(p.target(vol), "@b", "@c")
	p.wantSame(vol+"@b", p.target(vol)+"@b")
	if protect.Incremental != replicate.Nothing {
		p.wantMarks(vol, "j cursor "+cursorOf(p.id(vol, "@c")))
	}
}

// The version that a cut receive was of is destroyed: the next run gives up what was
// kept of it and sends what there is.
func deadTokenRun(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.big("a")
	after := int64(zvolBytes / 2)
	sender := *p.sender
	sender.Sender = cutSender{p.sender.Sender, &after}
	p.options.Sender, p.options.Protect = &sender, replicate.Protection{Initial: replicate.Nothing, Incremental: replicate.Incremental}
	_, err := p.replicate()
	p.want("a run whose line is cut", err, cairn.KindUnavailable)
	kept := p.there.list(p.target(vol)).Partial
	if kept == nil {
		t.Fatal("nothing was kept")
	}
	p.zfs("destroy", vol+"@b")
	p.fill(vol, "c")
	p.zfs("snapshot", vol+"@c")
	p.connect(zfs.Job{})
	p.mustReplicate()
	p.there.wantNames(p.target(vol), "@c")
	p.wantSame(vol+"@c", p.target(vol)+"@c")
	if left := p.there.list(p.target(vol)).Partial; left != nil {
		t.Errorf("after it there is still a partial: %+v", left)
	}
}

// Placeholders that one sink made are not replicated on as if they were data.
func chained(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("deep/er/a", "1")
	p.options.Filter = cairn.Filter{{Name: fs, Keep: true}}
	p.mustReplicate()
	for _, above := range []string{p.pool, p.pool + "/deep", p.pool + "/deep/er"} {
		if !p.there.list(p.target(above)).Dataset.Placeholder {
			t.Errorf("%s is no placeholder", p.target(above))
		}
	}
	third := w.lab(t)
	receiver, err := wrap.Rebase(third.ep, third.pool)
	p.ok(err)
	p.options.Sender, p.options.Receiver = p.there.ep, receiver
	p.options.Filter = cairn.Filter{{Name: p.root, Subtree: true, Keep: true}, {Name: p.root, Keep: false}}
	p.mustReplicate()
	to := third.pool + "/" + p.target(fs)
	third.wantNames(to, "@1")
	if !third.list(to[:strings.LastIndexByte(to, '/')]).Dataset.Placeholder {
		t.Error("a placeholder became something else on its way")
	}
	// The filesystem above comes later and takes the placeholder's place.
	p.zfs("snapshot", p.pool+"/deep/er@1")
	p.connect(zfs.Job{})
	p.options.Filter = cairn.Filter{{Name: p.pool + "/deep/er", Subtree: true, Keep: true}}
	p.mustReplicate()
	p.there.wantNames(p.target(p.pool+"/deep/er"), "@1")
	if got := p.there.names(p.target(fs)); !slices.Contains(got, "@1") {
		t.Errorf("below what took its place there is %v", got)
	}
	if p.there.list(p.target(p.pool + "/deep/er")).Dataset.Placeholder {
		t.Error("what was received still is a placeholder")
	}
}

func encryptOnReceiver(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("deep/a", "1")
	p.root = p.there.encrypted("enc")
	p.connect(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	p.options.Filter = cairn.Filter{{Name: fs, Keep: true}}
	p.mustReplicate()
	if !p.there.list(p.target(fs)).Dataset.Encrypted || !p.there.list(p.target(p.pool+"/deep")).Dataset.Encrypted {
		t.Error("what is received below an encrypted dataset is not encrypted")
	}
}

func unspecifiedIdentity(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	root := p.there.pool + "/sink"
	p.root = root + "/client"
	p.connect(zfs.Job{Receive: zfs.ReceiveOptions{Root: root}})
	p.zfs("snapshot", p.pool+"@1")
	p.options.Filter = cairn.Filter{{Name: p.pool, Keep: true}}
	p.mustReplicate()
	p.there.wantNames(p.target(p.pool), "@1")
	if !p.there.list(p.root).Dataset.Placeholder {
		t.Error("the client's dataset is no placeholder")
	}
}

func unspecifiedFails(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("deep/a", "1")
	p.connect(zfs.Job{Receive: zfs.ReceiveOptions{Root: p.root}})
	p.options.Filter = cairn.Filter{{Name: fs, Keep: true}}
	_, err := p.replicate()
	p.want("a placeholder without a choice of encryption", err, cairn.KindConfig)
	if err != nil && !strings.Contains(err.Error(), "placeholder") {
		t.Errorf("the error does not say what to set: %v", err)
	}
	p.there.wantNames(p.target(fs))
}

func properties(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{Send: zfs.SendOptions{Properties: true}, Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit,
		Inherit: []string{"user:inherit"}, Override: map[string]string{"user:override": "theirs"}}})
	fs := p.filesystem("a")
	for _, property := range []string{"inherit", "override", "sent"} {
		p.zfs("set", "user:"+property+"=ours", fs)
	}
	p.zfs("snapshot", fs+"@1")
	p.mustReplicate()
	want := map[string]string{"inherit": "-", "override": "theirs", "sent": "ours"}
	if w.Fake {
		want["sent"] = "-" // the fake's streams carry none
	}
	for property, value := range want {
		if got := strings.TrimSpace(p.there.zfs("get", "-H", "-o", "value", "user:"+property, p.target(fs))); got != value {
			t.Errorf("user:%s is %q at the receiver, want %q", property, got, value)
		}
	}
}

func receiverError(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.big("a")
	p.there.zfs("create", "-p", p.target(p.pool)+"/x")
	p.there.zfs("create", "-V", "4194304", p.target(vol)) // in the way
	_, err := p.replicate()
	p.want("a receiver that refuses while the sender goes on", err, cairn.KindConflict)
	if n := p.place.Processes()["zfs send"]; n > 1 {
		t.Errorf("%d sends", n)
	}
	p.ok(p.ep.Rollbacks.Rollback(t.Context(), vol, p.id(vol, "@b"), false)) // nothing holds it open any more
}

func completedLost(t *testing.T, w *World, protect replicate.Protection) {
	p := w.pair(t, zfs.Job{})
	fs := p.filesystem("a", "1")
	p.options.Protect = protect
	p.mustReplicate()
	p.zfs("snapshot", fs+"@2")
	sender := *p.sender
	sender.Leases = failingLeaser{p.sender.Leases, cairn.PurposeCursor}
	p.options.Sender = &sender
	if _, err := p.replicate(); err == nil {
		t.Fatal("a run whose last answer was lost succeeded")
	}
	p.there.wantNames(p.target(fs), "@1", "@2")
	one := p.id(fs, "@1")
	if !slices.Contains(p.marksOf(fs), "j cursor "+cursorOf(one)) {
		t.Errorf("the old cursor is gone before the new one is there: %q", p.marksOf(fs))
	}
	p.connect(zfs.Job{})
	p.options.Protect = protect
	p.mustReplicate()
	p.wantMarks(fs, "j cursor "+cursorOf(p.id(fs, "@2")))
	p.there.wantMarks(p.target(fs), "j received @2")
}
