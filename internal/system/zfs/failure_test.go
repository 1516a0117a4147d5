package zfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/wrap"
	"cairn/internal/system/zfs"
	"cairn/internal/testkit/fakezfs"
	"cairn/internal/work/replicate"
)

// script makes a program that says something instead of zfs.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "zfs")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name, program string
		kind          cairn.Kind
		hint          string // the only one
	}{
		{"missing", filepath.Join(t.TempDir(), "none"), cairn.KindNotFound, "install OpenZFS"},
		{"not executable", func() string {
			p := filepath.Join(t.TempDir(), "zfs")
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return p
		}(), cairn.KindPermission, "let this user run"},
		{"not for this user", script(t, "echo 'Permission denied the ZFS utilities must be run as root.' >&2; exit 1"), cairn.KindPermission, "let this user run"},
		{"no version command", script(t, "echo \"unrecognized command 'version'\" >&2; exit 2"), cairn.KindUnsupported, "OpenZFS 0.8"},
		{"another program", script(t, "echo hello"), cairn.KindUnsupported, "OpenZFS 0.8"},
		{"an old version", script(t, "echo zfs-0.7.13-1; echo zfs-kmod-0.7.13-1"), cairn.KindUnsupported, "OpenZFS 0.8"},
		{"no module", script(t, "echo zfs-2.4.4-1"), cairn.KindUnavailable, "modprobe zfs"},
		{"module not loaded", script(t, "echo zfs-2.4.4-1; echo 'zfs_version_kernel() failed: The ZFS modules are not loaded.' >&2; exit 1"), cairn.KindUnavailable, "modprobe zfs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := zfs.Open(t.Context(), zfs.Options{ZFS: c.program})
			if cairn.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("got %v (kind %s), want %s with the hint %q", err, cairn.KindOf(err), c.kind, c.hint)
			}
			hints := 0
			for e, ok := err.(*cairn.Error); ok; e, ok = e.Err.(*cairn.Error) { //nolint:errorlint // the chain as it is printed
				if e.Hint != "" {
					hints++
				}
			}
			if hints != 1 {
				t.Errorf("it has %d hints: %v", hints, err)
			}
		})
	}
}

// bench is a pool with one dataset of three snapshots.
type bench struct {
	t *testing.T
	*fakezfs.Fake
	place *zfs.Place
	ep    *cairn.Endpoint
	ids   []cairn.VersionID
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, Fake: fakezfs.New(t)}
	b.Pool("tank")
	b.Run("create", "-V", "1048576", "tank/a")
	for _, s := range []string{"1", "2", "3"} {
		b.Write("tank/a", 0, []byte(strings.Repeat(s, 8192)))
		b.Run("snapshot", "tank/a@"+s)
	}
	b.place = open(t, b.Fake, zfs.Options{})
	b.ep = b.place.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	for _, v := range b.list("tank/a").Versions {
		b.ids = append(b.ids, v.VersionID)
	}
	return b
}

func (b *bench) list(name string) *cairn.Listing {
	b.t.Helper()
	l, err := b.tryList(b.t.Context(), name)
	if err != nil || l == nil {
		b.t.Fatalf("list %s: %v", name, err)
	}
	return l
}

func (b *bench) tryList(ctx context.Context, name string) (*cairn.Listing, error) {
	q := cairn.Query{Filter: cairn.All, Names: []string{name}, Want: cairn.Want{Versions: true, Leases: true, Partial: true}}
	for l, err := range b.ep.Lister.List(ctx, q) {
		return l, err
	}
	return nil, nil
}

// Whatever zfs says that is not understood, nothing is destroyed, and a listing that
// did not come whole is none.
func TestOutputThatIsNotUnderstood(t *testing.T) {
	b := newBench(t)
	good := strings.SplitAfter(b.Run("list", "-Hp", "-d", "1", "-t", "filesystem,volume,snapshot,bookmark",
		"-o", "name,type,guid,createtxg,creation,used,referenced,written,volsize,userrefs,encryption,receive_resume_token,origin,readonly", "tank/a"), "\n")
	for what, f := range map[string]fakezfs.Fault{
		"words":                      {Stdout: "hello\n"},
		"a column too many":          {Stdout: strings.ReplaceAll(good[0], "\n", "\tx\n")},
		"a number that is none":      {Stdout: strings.Replace(good[0], "\tvolume\t", "\tvolume\t0x", 1)},
		"no GUID":                    {Stdout: "tank/a\tvolume\t-\t1\t1\t-\t-\t-\t-\t-\toff\t-\t-\toff\n"},
		"a snapshot of nothing":      {Stdout: good[1]},
		"a snapshot that is none":    {Stdout: good[0] + strings.Replace(good[1], "snapshot", "bookmark", 1)},
		"a dataset twice":            {Stdout: good[0] + good[1] + good[0]},
		"a failure half way":         {Stdout: good[0] + good[1], Stderr: "internal error: Invalid exchange\n", Exit: 1},
		"a death half way":           {Stdout: good[0] + good[1], Exit: 134},
		"a line that does not end":   {Stdout: strings.Repeat("x", 100<<10)},
		"a strange reason of absent": {Stdout: good[0], Stderr: "cannot open 'tank/b': dataset does not exist\ncannot open 'tank/a': I/O error\n", Exit: 1},
	} {
		f.Verb = "list"
		b.Fail(f)
		if l, err := b.tryList(b.t.Context(), "tank/a"); err == nil {
			t.Errorf("%s: listed as %+v", what, l)
		}
		b.Forget()
		if results, err := b.ep.Destroys.Destroy(b.t.Context(), "tank/a", b.ids); err == nil {
			t.Errorf("%s: destroyed with results %v", what, results)
		}
		if calls := strings.Join(b.Calls(), "\n"); strings.Contains(calls, "destroy") {
			t.Errorf("%s: a destroy was started", what)
		}
		b.Fail()
	}
	if got := len(b.list("tank/a").Versions); got != 3 {
		t.Errorf("%d versions are left of 3", got)
	}
}

// A listing that changes between the plan and the destroy is noticed.
func TestDestroyComparesBoth(t *testing.T) {
	b := newBench(t)
	b.Run("destroy", "tank/a@2")
	b.Run("snapshot", "tank/a@2")
	b.Forget()
	results, err := b.ep.Destroys.Destroy(b.t.Context(), "tank/a", b.ids)
	if err != nil || results[0] != nil || !errors.Is(results[1], cairn.KindConflict) || results[2] != nil {
		t.Errorf("got %v, %v", results, err)
	}
	for _, c := range b.Calls() {
		if strings.HasPrefix(c, "destroy") && c != "destroy tank/a@1,3" {
			t.Errorf("started: %s", c)
		}
	}
}

// Permissions that are missing are named.
func TestPermissions(t *testing.T) {
	b := newBench(t)
	id := b.ids[2]
	for verb, call := range map[string]func() error{
		"hold": func() error {
			return b.ep.Leases.SetLease(b.t.Context(), cairn.LeaseSet{Dataset: "tank/a", Owner: "j", Purpose: cairn.PurposeStep, Versions: b.ids[:1]})
		},
		"bookmark": func() error {
			_, err := b.ep.Bookmarks.Bookmark(b.t.Context(), "tank/a", id, "#m", false)
			return err
		},
		"snapshot": func() error {
			_, err := b.ep.Snapshots.Snapshot(b.t.Context(), "@x", []string{"tank/a"}, true)
			return err
		},
		"rollback": func() error { return b.ep.Rollbacks.Rollback(b.t.Context(), "tank/a", id, false) },
		"rename":   func() error { return b.ep.Renames.Rename(b.t.Context(), "tank/a", "tank/b") },
		"set":      func() error { return b.ep.Seals.Seal(b.t.Context(), "tank/a", true) },
		"send": func() error {
			_, err := b.ep.Sender.Send(b.t.Context(), cairn.Step{Dataset: "tank/a", To: id}, []cairn.Format{cairn.FormatZFS})
			return err
		},
		"destroy": func() error {
			results, err := b.ep.Destroys.Destroy(b.t.Context(), "tank/a", b.ids[:1])
			return errors.Join(append(results, err)...)
		},
	} {
		b.Fail(fakezfs.Fault{Verb: verb, Stderr: "cannot " + verb + " 'tank/a@3': permission denied\n", Exit: 1})
		err := call()
		if !errors.Is(err, cairn.KindPermission) || !strings.Contains(err.Error(), "zfs allow ") || !strings.Contains(err.Error(), "'tank/a'") {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

// A program that hangs, deaf to TERM, ends soon after its context; other datasets go
// on meanwhile.
func TestHungPrograms(t *testing.T) {
	b := newBench(t)
	b.Run("create", "-V", "1048576", "tank/b")
	b.Run("snapshot", "tank/b@1")
	set := cairn.LeaseSet{Dataset: "tank/a", Owner: "j", Purpose: cairn.PurposeStep, Versions: b.ids[:1]}
	for verb, call := range map[string]func(ctx context.Context) error{
		"list": func(ctx context.Context) error { _, err := b.tryList(ctx, "tank/a"); return err },
		"hold": func(ctx context.Context) error { return b.ep.Leases.SetLease(ctx, set) },
		"send": func(ctx context.Context) error {
			s, err := b.ep.Sender.Send(ctx, cairn.Step{Dataset: "tank/a", To: b.ids[0]}, []cairn.Format{cairn.FormatZFS})
			if err == nil {
				err = s.Body.Close()
			}
			return err
		},
		"receive": func(ctx context.Context) error {
			s, err := b.ep.Sender.Send(ctx, cairn.Step{Dataset: "tank/a", To: b.ids[0]}, []cairn.Format{cairn.FormatZFS})
			if err != nil {
				return err
			}
			s.Header.Dataset = "tank/new"
			_, err = b.ep.Receiver.Receive(ctx, s, cairn.ReceiveOptions{})
			return err
		},
		"destroy": func(ctx context.Context) error {
			results, err := b.ep.Destroys.Destroy(ctx, "tank/a", b.ids[1:2])
			return errors.Join(append(results, err)...)
		},
	} {
		b.Fail(fakezfs.Fault{Verb: verb, Args: "", Times: 1, Hang: true})
		ctx, cancel := context.WithCancel(b.t.Context())
		done := make(chan error, 1)
		go func() { done <- call(ctx) }()
		for !slices.ContainsFunc(b.Calls(), func(c string) bool { return strings.HasPrefix(c, verb) }) {
			time.Sleep(10 * time.Millisecond) // until the program runs
		}
		if verb != "list" { // it has taken its fault by now, or soon will
			if _, err := b.tryList(b.t.Context(), "tank/b"); err != nil {
				t.Errorf("beside a hung %s: %v", verb, err)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, cairn.KindCanceled) {
			t.Errorf("a hung %s ends with %v (kind %s)", verb, err, cairn.KindOf(err))
		}
		b.Fail()
		b.Forget()
	}
	if got := len(b.list("tank/a").Versions); got != 3 {
		t.Errorf("%d versions are left of 3", got)
	}
}

// A run in which any one process dies, before or after it did its work, is made good
// by the next one, and after one more step nothing is left over. By default a few of
// the points are tried; CAIRN_SCALE=full tries all.
func TestAnyProcessDies(t *testing.T) {
	apart, want := 6, 4
	if os.Getenv("CAIRN_SCALE") == "full" {
		apart, want = 1, 20
	}
	points := 0
	for i, late := range []bool{false, true} {
		for k := i; ; k += apart {
			f := fakezfs.New(t)
			for _, p := range []string{"here", "there"} {
				f.Pool(p)
			}
			f.Run("create", "-V", "1048576", "here/a")
			for _, s := range []string{"1", "2"} {
				f.Write("here/a", 0, []byte(strings.Repeat(s, 8192)))
				f.Run("snapshot", "here/a@"+s)
				if s == "1" {
					if err := once(t, f); err != nil {
						t.Fatal(err)
					}
				}
			}
			f.Forget()
			f.Fail(fakezfs.Fault{Verb: "*", After: k, Times: 1, Exit: 1, Late: late, Stderr: "Killed\n"})
			err := once(t, f)
			if len(f.Calls()) <= k {
				break // no process was left to die
			}
			points++
			f.Fail()
			if second := once(t, f); second != nil {
				t.Fatalf("process %d dies (late: %v): %v; the next run: %v", k, late, err, second)
			}
			if got, want := string(f.Read("there/here/a@2")), string(f.Read("here/a@2")); got != want {
				t.Errorf("process %d dies (late: %v): the replica differs", k, late)
			}
			f.Run("snapshot", "here/a@3")
			if third := once(t, f); third != nil {
				t.Fatalf("process %d dies (late: %v): the third run: %v", k, late, third)
			}
			wantSettled(t, f, fmt.Sprintf("process %d dies (late: %v)", k, late))
		}
	}
	if points < want {
		t.Errorf("only %d points were tried", points)
	}
	t.Logf("%d points", points)
}

// once is one run of a job by a process of its own.
func once(t *testing.T, f *fakezfs.Fake) error {
	t.Helper()
	p, err := zfs.Open(t.Context(), zfs.Options{ZFS: f.ZFS, Grace: 200 * time.Millisecond})
	if err != nil {
		return err
	}
	ep := p.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	receiver, err := wrap.Rebase(ep, "there")
	if err != nil {
		return err
	}
	o := replicate.Options{Sender: ep, Receiver: receiver, Owner: "j", Filter: cairn.Filter{{Name: "here/a", Keep: true}}}
	o.Retry.Attempts = 1
	_, err = replicate.Run(t.Context(), o)
	return err
}

// wantSettled checks what a finished run leaves behind.
func wantSettled(t *testing.T, f *fakezfs.Fake, what string) {
	t.Helper()
	p := open(t, f, zfs.Options{})
	marks, err := p.Marks(t.Context(), cairn.All)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, m := range marks {
		name, _, _ := strings.Cut(m.Version.Name, "_G_")
		words = append(words, m.Dataset+" "+m.Purpose.String()+" "+name)
	}
	if want := []string{"here/a cursor #zrepl_CURSOR", "there/here/a received @3"}; !slices.Equal(words, want) {
		t.Errorf("%s: at the end there are %q, want %q", what, words, want)
	}
	if got, want := string(f.Read("there/here/a@3")), string(f.Read("here/a@3")); got != want {
		t.Errorf("%s: the replica differs", what)
	}
}

// A pool that is full ends the step with KindSpace; with room it goes on from there.
func TestPoolFull(t *testing.T) {
	f := fakezfs.New(t)
	f.Pool("here")
	f.Pool("there")
	f.Run("create", "-V", "4194304", "here/a")
	for i := range int64(8) {
		f.Write("here/a", i<<19, []byte(strings.Repeat(fmt.Sprint(i+1), 1<<19)))
	}
	f.Run("snapshot", "here/a@1")
	f.Quota(3 << 20)
	if err := once(t, f); !errors.Is(err, cairn.KindSpace) {
		t.Errorf("a full pool: %v", err)
	}
	f.Quota(-1)
	f.Forget()
	if err := once(t, f); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.Calls(), func(c string) bool { return strings.HasPrefix(c, "send -t 1-") }) {
		t.Errorf("it was not resumed: %q", f.Calls())
	}
	if string(f.Read("there/here/a@1")) != string(f.Read("here/a@1")) {
		t.Error("the replica differs")
	}
}

// A dataset that goes away between listing and acting is KindNotFound, and others
// are not touched.
func TestDatasetGoesWhilePlanning(t *testing.T) {
	b := newBench(t)
	b.Run("destroy", "-r", "tank/a")
	set := cairn.LeaseSet{Dataset: "tank/a", Owner: "j", Purpose: cairn.PurposeStep, Versions: b.ids[:1]}
	if err := b.ep.Leases.SetLease(b.t.Context(), set); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("lease: %v", err)
	}
	if _, err := b.ep.Sender.Send(b.t.Context(), cairn.Step{Dataset: "tank/a", To: b.ids[0]}, []cairn.Format{cairn.FormatZFS}); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("send: %v", err)
	}
	if _, err := b.ep.Destroys.Destroy(b.t.Context(), "tank/a", b.ids); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("destroy: %v", err)
	}
}
