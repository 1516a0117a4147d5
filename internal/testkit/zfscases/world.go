// Package zfscases are the cases that every ZFS has to pass with Cairn: the
// platform cases of zrepl under their names, and more. Package internal/system/zfs
// runs them against the scripted fake, the virtual machine against OpenZFS: where
// the two differ, one of them fails.
//
// A case makes its own pools. It promises nothing about time; what cannot be done
// on the fake says so by skipping.
package zfscases

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
	"cairn/internal/work/replicate"
)

// World is a ZFS to run the cases on.
type World struct {
	ZFS     string // the program
	Devices string // folder of zvols' device nodes
	Fake    bool
	Pool    func(t *testing.T) string // makes an empty pool and returns its name
	Try     func(args ...string) (string, error)
	Write   func(dataset string, off int64, p []byte) error // to the head of a zvol
	Many    func(dataset string, n int) error               // makes n snapshots, @m1 and so on
	// Replicas makes n filesystems below each of two that are there, as the job leaves
	// them; nil: they are made and replicated one by one.
	Replicas func(here, there string, n int, job string) error
	Read     func(snapshot string) ([]byte, error) // of a zvol with visible snapshots
}

// Case is one of them.
type Case struct {
	Name string
	Run  func(t *testing.T, w *World)
}

// Cases are all, in the order in which they run.
func Cases() []Case {
	return slices.Concat(placeCases, streamCases, replicationCases, familyCases, moreCases)
}

// Run runs every case as a subtest.
func Run(t *testing.T, w *World) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, w) })
	}
}

// lab is one case's pool and place.
type lab struct {
	*testing.T
	*World
	pool  string
	place *zfs.Place
	ep    *cairn.Endpoint
}

func (w *World) lab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, World: w, pool: w.Pool(t)}
	l.place = w.open(t, zfs.Options{})
	l.ep = l.place.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	return l
}

func (w *World) open(t *testing.T, o zfs.Options) *zfs.Place {
	t.Helper()
	o.ZFS, o.Devices = w.ZFS, w.Devices
	if o.Grace == 0 {
		o.Grace = time.Second
	}
	p, err := zfs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// zfs runs the program as a user would; it has to succeed.
func (l *lab) zfs(args ...string) string {
	l.Helper()
	out, err := l.Try(args...)
	if err != nil {
		l.Fatal(err)
	}
	return out
}

// filesystem makes one with snapshots.
func (l *lab) filesystem(short string, snapshots ...string) string {
	l.Helper()
	name := l.pool + "/" + short
	l.zfs("create", "-p", name)
	for _, s := range snapshots {
		l.zfs("snapshot", name+"@"+s)
	}
	return name
}

const zvolBytes = 4 << 20

// zvol makes one with a snapshot of each content: n bytes of the letter that the
// snapshot is named by.
func (l *lab) zvol(short string, snapshots ...string) string {
	l.Helper()
	name := l.pool + "/" + short
	l.zfs("create", "-p", "-V", fmt.Sprint(zvolBytes), "-b", "4096", "-o", "snapdev=visible", name)
	for _, s := range snapshots {
		l.fill(name, s)
		l.zfs("snapshot", name+"@"+s)
	}
	return name
}

// fill writes what belongs to a snapshot's name: a few blocks, at a place that
// depends on it.
func (l *lab) fill(name, snap string) {
	l.Helper()
	block := []byte(strings.Repeat(snap+"z", 16384))[:16384]
	if err := l.Write(name, int64(snap[len(snap)-1])%16*65536+int64(snap[0])%4*16384, block); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) find(name string) *cairn.Listing {
	l.Helper()
	q := cairn.Query{Filter: cairn.All, Names: []string{name}, Want: cairn.Want{Versions: true, Leases: true, Sizes: true, Partial: true}}
	for row, err := range l.ep.Lister.List(l.Context(), q) {
		if err != nil {
			l.Fatal(err)
		}
		return row
	}
	return nil
}

func (l *lab) list(name string) *cairn.Listing {
	l.Helper()
	row := l.find(name)
	if row == nil {
		l.Fatalf("%s is not listed", name)
	}
	return row
}

func (l *lab) id(name, version string) cairn.VersionID {
	l.Helper()
	for _, v := range l.list(name).Versions {
		if v.Name == version {
			return v.VersionID
		}
	}
	l.Fatalf("%s%s is not listed", name, version)
	return cairn.VersionID{}
}

func (l *lab) names(name string) []string {
	l.Helper()
	var names []string
	if row := l.find(name); row != nil {
		for _, v := range row.Versions {
			names = append(names, v.Name)
		}
	}
	return names
}

func (l *lab) wantNames(name string, want ...string) {
	l.Helper()
	if got := l.names(name); !slices.Equal(got, want) {
		l.Errorf("%s has versions %v, want %v", name, got, want)
	}
}

// wantSame compares two snapshots of zvols byte by byte.
func (l *lab) wantSame(a, b string) {
	l.Helper()
	one, err := l.Read(a)
	if err != nil {
		l.Fatal(err)
	}
	two, err := l.Read(b)
	if err != nil {
		l.Fatal(err)
	}
	if string(one) != string(two) {
		l.Errorf("%s and %s differ", a, b)
	}
}

func (l *lab) want(what string, err error, kind cairn.Kind) {
	l.Helper()
	if cairn.KindOf(err) != kind || err == nil {
		l.Errorf("%s: %v (kind %s), want %s", what, err, cairn.KindOf(err), kind)
	}
}

func (l *lab) ok(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) lease(name, owner string, purpose cairn.Purpose, ids ...cairn.VersionID) {
	l.Helper()
	l.ok(l.ep.Leases.SetLease(l.Context(), cairn.LeaseSet{Dataset: name, Owner: owner, Purpose: purpose, Versions: ids}))
}

func (l *lab) leases(name, version string) []cairn.Lease {
	l.Helper()
	for _, v := range l.list(name).Versions {
		if v.Name == version {
			return v.Leases
		}
	}
	return nil
}

// owner is the job of the cases.
const owner = "j"

// pair is two pools with a job between them: what is at pool/data here goes to
// sink/pool/data there.
type pair struct {
	*lab
	there    *lab
	root     string
	sender   *cairn.Endpoint
	receiver *cairn.Endpoint
	options  replicate.Options
}

func (w *World) pair(t *testing.T, job zfs.Job) *pair {
	t.Helper()
	p := &pair{lab: w.lab(t), there: w.lab(t)}
	p.root = p.there.pool + "/sink"
	p.there.zfs("create", p.root)
	if job.Receive.Placeholder == zfs.Unspecified && job.Receive.Root == "" {
		job.Receive.Placeholder = zfs.Inherit
	}
	p.connect(job)
	return p
}

// connect makes the two endpoints anew, as the next run does.
func (p *pair) connect(job zfs.Job) {
	p.Helper()
	p.sender = p.place.Endpoint(job)
	receiver, err := wrap.Rebase(p.there.place.Endpoint(job), p.root)
	if err != nil {
		p.Fatal(err)
	}
	p.receiver = receiver
	p.options = replicate.Options{Sender: p.sender, Receiver: receiver, Owner: owner,
		Filter: cairn.Filter{{Name: p.pool, Subtree: true, Keep: true}, {Name: p.pool, Keep: false}}}
	p.options.Retry.Attempts = 1
}

// target is the name at the receiver.
func (p *pair) target(name string) string { return p.root + "/" + name }

func (p *pair) replicate() (*replicate.Report, error) { return replicate.Run(p.Context(), p.options) }

func (p *pair) mustReplicate() *replicate.Report {
	p.Helper()
	r, err := p.replicate()
	if err != nil {
		p.Fatal(err)
	}
	return r
}
