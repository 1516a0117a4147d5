package guest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
	"cairn/internal/work/replicate"
)

// fault is a job between two pools of OpenZFS, whose programs can be snared.
type fault struct {
	t           *testing.T
	here, there string // pools
	snare       *snare
	options     replicate.Options
	place       *zfs.Place // nil: each run has one of its own
	halt        func()     // nil, or what is done once 8 MiB of the stream have passed; then it stands still
}

// newFault makes two pools, the second of so many MiB.
func newFault(t *testing.T, mib int) *fault {
	t.Helper()
	return &fault{t: t, here: zfsPool(t, 256), there: zfsPool(t, mib), snare: newSnare(t)}
}

// zvol makes one with noise in it and a snapshot @1.
func (f *fault) zvol(name string, mib int) {
	f.t.Helper()
	run(f.t, fmt.Sprintf("zfs create -s -V %dM -b 64k %s", mib, name))
	run(f.t, fmt.Sprintf("dd if=/dev/urandom of=%s bs=1M count=%d conv=fsync status=none; zfs snapshot %s@1", node(f.t, name), mib, name))
}

// open opens the machine's ZFS as a process does that knows nothing of earlier ones.
func (f *fault) open() *zfs.Place {
	f.t.Helper()
	p, err := zfs.Open(f.t.Context(), zfs.Options{ZFS: f.snare.program(), Grace: time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// run is one run of the job.
func (f *fault) run(names ...string) (*replicate.Report, error) {
	f.t.Helper()
	p := f.place
	if p == nil {
		p = f.open()
	}
	ep := p.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	receiver, err := wrap.Rebase(ep, f.there)
	if err != nil {
		f.t.Fatal(err)
	}
	o := f.options
	sender := *ep
	if f.halt != nil {
		sender.Sender = halting{ep.Sender, f.halt}
	}
	o.Sender, o.Receiver, o.Owner, o.Filter = &sender, receiver, "j", nil
	for _, name := range names {
		o.Filter = append(o.Filter, cairn.FilterRule{Name: name, Keep: true})
	}
	o.Retry.Attempts = 1
	return replicate.Run(f.t.Context(), o)
}

// halting is a sender whose streams stand still after 8 MiB.
type halting struct {
	cairn.Sender
	halt func()
}

func (h halting) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := h.Sender.Send(ctx, step, accept)
	if err == nil {
		s.Body = &halted{ReadCloser: s.Body, left: 8 << 20, halt: sync.OnceFunc(h.halt), closed: make(chan struct{})}
	}
	return s, err
}

type halted struct {
	io.ReadCloser
	left   int
	halt   func()
	once   sync.Once
	closed chan struct{}
}

func (h *halted) Read(p []byte) (int, error) {
	if h.left <= 0 {
		h.halt()
		<-h.closed
	}
	n, err := h.ReadCloser.Read(p)
	h.left -= n
	return n, err
}

func (h *halted) Close() error {
	h.once.Do(func() { close(h.closed) })
	return h.ReadCloser.Close()
}

// states are what became of each dataset.
func states(r *replicate.Report) string {
	var words []string
	for _, d := range r.Datasets {
		words = append(words, d.Dataset[strings.LastIndexByte(d.Dataset, '/')+1:]+"="+string(d.State))
	}
	return strings.Join(words, " ")
}

func (f *fault) want(what string, r *replicate.Report, want string) {
	f.t.Helper()
	if got := states(r); got != want {
		f.t.Errorf("%s: %s, want %s: %+v", what, got, want, r)
	}
}

// same compares snapshots at both sides.
func (f *fault) same(snapshot string) {
	f.t.Helper()
	guids := strings.Fields(run(f.t, fmt.Sprintf("zfs get -Hp -o value guid %s %s/%[1]s", snapshot, f.there)))
	if len(guids) != 2 || guids[0] != guids[1] {
		f.t.Errorf("the GUIDs of %s are %v", snapshot, guids)
	}
}

func (f *fault) good(names ...string) *replicate.Report {
	f.t.Helper()
	r, err := f.run(names...)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// A pool that is full ends the step with kind space; with room the next run goes on
// from what had arrived.
func TestZFSPoolFull(t *testing.T) {
	inside(t)
	f := newFault(t, 80)
	name := f.here + "/a"
	f.zvol(name, 64)
	_, err := f.run(name)
	if !errors.Is(err, cairn.KindSpace) || cairn.HintOf(err) == "" {
		t.Fatalf("receive into a full pool: %v (kind %s)", err, cairn.KindOf(err))
	}
	token := strings.TrimSpace(run(t, "zfs get -H -o value receive_resume_token "+f.there+"/"+name))
	if len(token) < 10 {
		t.Fatalf("nothing was kept: %q", token)
	}
	more := t.TempDir() + "/more"
	run(t, fmt.Sprintf("truncate -s 128M %[1]s && zpool add %[2]s %[1]s", more, f.there))
	r := f.good(name)
	if s := r.Datasets[0].Attempts[0].Steps[0]; !s.Resumed || s.BytesMoved > 48<<20 {
		t.Errorf("with room the step is %+v", s)
	}
	f.same(name + "@1")
}

// A pool is exported under a running job: the datasets on it fail with what to look
// at, the others do not notice, and when it is back the next run makes it good. A
// pool that is receiving cannot be exported, and its step is done.
func TestZFSPoolExported(t *testing.T) {
	inside(t)
	f := newFault(t, 256)
	other := zfsPool(t, 128)
	a, b := f.here+"/a", other+"/b"
	f.zvol(a, 8)
	f.zvol(b, 8)
	dirs := poolDirs(t, other)
	f.snare.set("list", after, "udevadm settle; zpool export "+other)
	r, err := f.run(a, b)
	f.snare.caught("export")
	f.want("the sender's pool is exported after it was listed", r, "a=done b=failed")
	if !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("the error is %v (kind %s)", err, cairn.KindOf(err))
	}
	run(t, "zpool import -d "+dirs+" "+other)
	f.want("with the pool back", f.good(a, b), "a=up to date b=done")
	f.same(b + "@1")

	run(t, "zfs snapshot "+b+"@2")
	sink := poolDirs(t, f.there)
	f.snare.set("hold", after, "udevadm settle; zpool export "+f.there)
	r, err = f.run(b)
	f.snare.caught("export of the sink's pool")
	if err == nil || !errors.Is(err, cairn.KindNotFound) && !errors.Is(err, cairn.KindUnavailable) {
		t.Errorf("without the sink's pool: %v (kind %s): %+v", err, cairn.KindOf(err), r)
	}
	run(t, "zpool import -d "+sink+" "+f.there)
	f.want("with the sink's pool back", f.good(b), "b=done")

	run(t, "dd if=/dev/urandom of="+node(t, a)+" bs=1M count=8 conv=fsync status=none; zfs snapshot "+a+"@2")
	f.snare.set("receive", "3000000", "zpool export "+f.there+" && touch "+f.snare.dir+"/exported")
	f.want("a pool that is receiving", f.good(a), "a=done")
	f.snare.caught("export during receive")
	if _, err := shell("test -e " + f.snare.dir + "/exported"); err == nil {
		t.Error("a pool that was receiving was exported")
	}
	f.same(a + "@2")
}

// poolDirs is the folder of a pool's file.
func poolDirs(t *testing.T, pool string) string {
	t.Helper()
	file := strings.TrimSpace(run(t, "zpool list -HPv -o name "+pool+" | awk 'NR==2{print $1}'"))
	return file[:strings.LastIndexByte(file, '/')]
}

// A dataset that is destroyed while the run plans fails alone, as not found.
func TestZFSDestroyedDuringPlanning(t *testing.T) {
	inside(t)
	f := newFault(t, 128)
	names := []string{f.here + "/a", f.here + "/b", f.here + "/c"}
	for _, name := range names {
		f.zvol(name, 4)
	}
	f.snare.set("list", after, "udevadm settle; zfs destroy -r "+names[1])
	r, err := f.run(names...)
	f.snare.caught("destroy")
	f.want("a dataset is destroyed after it was listed", r, "a=done b=failed c=done")
	if !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("the error is %v (kind %s)", err, cairn.KindOf(err))
	}
	f.same(names[0] + "@1")
	f.same(names[2] + "@1")
}

// hurried is a watchdog that is impatient with a step that moves no bytes.
var hurried = watchdog.Options{Limit: 20 * time.Second, Grace: time.Second}

// A zfs receive that is stopped, with its feeder blocked in a full pipe, is ended by
// the watchdog; others are done meanwhile, and so is the next run of this one.
func TestZFSHungReceive(t *testing.T) {
	inside(t)
	f := newFault(t, 256)
	names := []string{f.here + "/a", f.here + "/b", f.here + "/c"}
	for _, name := range names {
		f.zvol(name, 8)
	}
	f.options = replicate.Options{Steps: 1, Watchdog: hurried}
	f.snare.set("receive", "3000000", "pkill -STOP -f '^"+realZFS+" receive'")
	r, err := f.run(names...)
	f.snare.caught("stop")
	f.want("a receive is stopped", r, "a=stuck b=done c=done")
	if !errors.Is(err, cairn.KindStuck) {
		t.Errorf("the error is %v (kind %s)", err, cairn.KindOf(err))
	}
	if !gone("^" + realZFS + " receive") {
		t.Error("the stopped program is left")
	}
	f.options = replicate.Options{}
	f.want("the next run", f.good(names...), "a=done b=up to date c=up to date")
	f.same(names[0] + "@1")
}

// A zfs receive whose pool's disk does not answer is ended by nothing, since it books
// what it has before it goes: it is abandoned and its dataset locked, the run ends,
// and other pools are replicated to. When the disk answers again the lock is gone, and
// the next run goes on from what was booked.
func TestZFSUnendingReceive(t *testing.T) {
	inside(t)
	f := newFault(t, 128)
	run(t, "modprobe dm-mod")
	device := loop(t, 128)
	run(t, fmt.Sprintf("dmsetup create asleep --table \"0 $(blockdev --getsz %[1]s) linear %[1]s 0\" && udevadm settle && zpool create -m none asleep /dev/mapper/asleep", device))
	undo(t, "dmsetup resume asleep; udevadm settle; zpool destroy -f asleep; udevadm settle; dmsetup remove asleep")
	a, b := f.here+"/a", f.here+"/b"
	f.zvol(a, 32)
	f.zvol(b, 4)
	f.place = f.open()
	f.options = replicate.Options{Watchdog: hurried}
	f.options.Watchdog.Grace = time.Minute // the ladder of the program is shorter
	there := f.there
	f.there = "asleep"
	f.halt = func() { run(t, "dmsetup suspend --nolockfs asleep") }
	r, err := f.run(a)
	f.halt = nil
	f.want("a receive that nothing ends", r, "a=stuck")
	if !errors.Is(err, cairn.KindStuck) {
		t.Errorf("the error is %v (kind %s)", err, cairn.KindOf(err))
	}
	_, err = f.place.Endpoint(zfs.Job{}).Destroys.Destroy(t.Context(), "asleep/"+a, []cairn.VersionID{{Name: "@1", GUID: 1}})
	if !errors.Is(err, cairn.KindBusy) || !strings.Contains(err.Error(), "zfs receive") {
		t.Errorf("work on what the abandoned program may still touch: %v", err)
	}
	f.there = there
	f.want("another pool meanwhile", f.good(b), "b=done")
	run(t, "dmsetup resume asleep")
	for i := 0; i < 600 && !gone("^"+realZFS+" receive"); i++ {
		time.Sleep(100 * time.Millisecond)
	}
	f.there = "asleep"
	again := f.good(a)
	f.want("with the disk back", again, "a=done")
	if !again.Datasets[0].Attempts[0].Steps[0].Resumed {
		t.Errorf("what was booked was sent again: %+v", again)
	}
	f.same(a + "@1")
}

// gone reports that no process has a command line of the pattern.
func gone(pattern string) bool {
	_, err := shell("pgrep -f '" + pattern + "'")
	return err != nil
}
