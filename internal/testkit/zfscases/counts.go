package zfscases

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/zfs"
	"cairn/internal/work/prune"
	"cairn/internal/work/replicate"
)

// moreCases are about costs and about what goes wrong.
var moreCases = []Case{
	{"ProcessesOfOneStep", oneStep},
	{"ProcessesOfNothing", nothingToDo},
	{"ProcessesOfCatchUp", catchUp},
	{"AdoptsZreplLayout", adoptsLayout},
}

// processes are counted at both places.
func (p *pair) processes() map[string]int {
	all := p.place.Processes()
	for k, n := range p.there.place.Processes() {
		all[k] += n
	}
	return all
}

func since(before, after map[string]int) map[string]int {
	diff := maps.Clone(after)
	for k, n := range before {
		if diff[k] -= n; diff[k] == 0 {
			delete(diff, k)
		}
	}
	return diff
}

func total(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// One step is exactly eight processes beside those of listing.
func oneStep(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.zvol("a", "1")
	p.mustReplicate()
	p.zfs("snapshot", vol+"@2")
	p.connect(zfs.Job{})
	before := p.processes()
	p.mustReplicate()
	got := since(before, p.processes())
	want := map[string]int{"zfs hold": 2, "zfs send": 1, "zfs receive": 1, "zfs bookmark": 1, "zfs destroy": 1, "zfs release": 2}
	listing := got["zfs list"] + got["zfs get"] + got["zfs holds"]
	for _, verb := range []string{"zfs list", "zfs get", "zfs holds"} {
		delete(got, verb)
	}
	t.Logf("a step: %v, its planning %d", got, listing)
	if !maps.Equal(got, want) {
		t.Errorf("a step starts %v, want %v", got, want)
	}
	if listing > 6 {
		t.Errorf("planning at two places starts %d processes", listing)
	}
	p.there.wantNames(p.target(vol), "@1", "@2")
}

// A run that replicates and destroys nothing costs at most a process per 50 datasets
// and 12: two for each place's listing, and one per 500 held snapshots.
func nothingToDo(t *testing.T, w *World) {
	sizes := []int{20}
	if w.Replicas != nil {
		sizes = []int{1, 50, 200, 1000}
	}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) { nothingOf(t, w, n) })
	}
}

func nothingOf(t *testing.T, w *World, n int) {
	p := w.pair(t, zfs.Job{})
	p.place, p.there.place = w.open(t, zfs.Options{Remember: time.Minute}), w.open(t, zfs.Options{Remember: time.Minute})
	p.replicas(n)
	p.connect(zfs.Job{})
	below := p.pool + "/a"
	p.options.Filter = cairn.Filter{{Name: below, Subtree: true, Keep: true}, {Name: below, Keep: false}}
	before := p.processes()
	report := p.mustReplicate()
	planned := total(since(before, p.processes()))
	for _, d := range report.Datasets {
		if d.State != replicate.UpToDate {
			t.Fatalf("%s is %s before anything was done: %s", d.Dataset, d.State, d.Error)
		}
	}
	keep := []cairn.KeepRule{{Type: "last_n", Count: 10}}
	for _, o := range []prune.Options{{Target: p.sender, Side: prune.Sender, Peer: p.receiver}, {Target: p.receiver, Side: prune.Receiver, Peer: p.sender}} {
		o.Filter, o.Rules, o.Owner = p.options.Filter, keep, owner
		_, err := prune.Run(t.Context(), o)
		p.ok(err)
	}
	got := since(before, p.processes())
	t.Logf("%d datasets: %v, of which planning %d", n, got, planned)
	want := map[string]int{"zfs get": 2, "zfs list": 2, "zfs holds": (n + holdsAtOnce - 1) / holdsAtOnce}
	if len(report.Datasets) != n || !maps.Equal(got, want) {
		t.Errorf("a run over %d of %d datasets without work starts %v, want %v", len(report.Datasets), n, got, want)
	}
	if limit := n/50 + 12; total(got) > limit {
		t.Errorf("a run without work starts %v, at most %d wanted", got, limit)
	}
}

// holdsAtOnce is how many snapshots one `zfs holds` is asked for.
const holdsAtOnce = 500

// replicas makes n filesystems that are replicated already.
func (p *pair) replicas(n int) {
	p.Helper()
	if p.Replicas != nil {
		p.zfs("create", p.pool+"/a")
		p.there.zfs("create", "-p", p.target(p.pool)+"/a")
		p.ok(p.Replicas(p.pool+"/a", p.target(p.pool)+"/a", n, owner))
		return
	}
	for i := range n {
		p.filesystem(fmt.Sprintf("a/fs%03d", i))
	}
	p.zfs("snapshot", "-r", p.pool+"/a@1")
	p.connect(zfs.Job{})
	p.mustReplicate()
}

// A dataset that is a thousand snapshots behind catches up in one stream.
func catchUp(t *testing.T, w *World) {
	n := 60
	if os.Getenv("CAIRN_SCALE") == "full" {
		n = 1000
	}
	p := w.pair(t, zfs.Job{})
	vol := p.zvol("a", "1")
	p.mustReplicate()
	p.ok(w.Many(vol, n))
	p.fill(vol, "2")
	p.zfs("snapshot", vol+"@last")
	p.connect(zfs.Job{})
	before := p.processes()
	p.mustReplicate()
	got := since(before, p.processes())
	t.Logf("%d versions: %v", n+1, got)
	want := map[string]int{"zfs get": 2, "zfs list": 2, "zfs holds": 1, "zfs hold": 2, "zfs send": 1, "zfs receive": 1, "zfs bookmark": 1, "zfs destroy": 1, "zfs release": 2}
	if !maps.Equal(got, want) || total(got) > 20 {
		t.Errorf("a catch-up of %d versions starts %v, want %v", n+1, got, want)
	}
	if have := len(p.there.names(p.target(vol))); have != n+2 {
		t.Errorf("%d versions arrived, want %d", have, n+2)
	}
	p.wantSame(vol+"@last", p.target(vol)+"@last")
	p.wantMarks(vol, "j cursor "+cursorOf(p.id(vol, "@last")))
	p.there.wantMarks(p.target(vol), "j received @last")
	p.listsWhatArrived(vol, n)
}

// listsWhatArrived compares the two listings after a catch-up with each other, and
// counts what a listing costs.
func (p *pair) listsWhatArrived(vol string, n int) {
	p.Helper()
	p.place, p.there.place = p.open(p.T, zfs.Options{}), p.open(p.T, zfs.Options{})
	p.ep, p.there.ep = p.place.Endpoint(zfs.Job{}), p.there.place.Endpoint(zfs.Job{})
	before := p.processes()
	here, there := p.list(vol).Versions, p.there.list(p.target(vol)).Versions
	here = slices.DeleteFunc(here, func(v cairn.Version) bool { return v.IsBookmark() })
	if got := since(before, p.processes()); total(got) > 5 {
		p.Errorf("listing %d versions at two places starts %v", n, got)
	}
	same := slices.EqualFunc(here, there, func(a, b cairn.Version) bool {
		return a.VersionID == b.VersionID && a.Created.Equal(b.Created) && a.Size == b.Size
	})
	if !same {
		p.Errorf("the receiver lists %d versions, not the %d of the sender in their order", len(there), len(here))
	}
}

// What zrepl left is taken over: the first run is incremental.
func adoptsLayout(t *testing.T, w *World) {
	p := w.pair(t, zfs.Job{})
	vol := p.zvol("data/a", "zrepl_1")
	only := cairn.Filter{{Name: vol, Keep: true}}
	p.options.Filter = only
	p.mustReplicate()
	target := p.target(vol)
	p.there.zfs("inherit", "readonly", target) // zrepl sets none
	p.zfs("destroy", vol+"@zrepl_1")           // its cursor is all that is left here
	p.fill(vol, "2")
	p.zfs("snapshot", vol+"@zrepl_2")
	p.place, p.there.place = w.open(t, zfs.Options{}), w.open(t, zfs.Options{})
	p.connect(zfs.Job{})
	p.options.Filter = only
	r := p.mustReplicate()
	if s := r.Datasets[len(r.Datasets)-1].Attempts[0].Steps; len(s) != 1 || s[0].From == "" {
		t.Errorf("the first run's steps are %+v", s)
	}
	p.there.wantNames(target, "@zrepl_1", "@zrepl_2")
	p.wantSame(vol+"@zrepl_2", target+"@zrepl_2")
}
