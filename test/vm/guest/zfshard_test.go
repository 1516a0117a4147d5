package guest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/zfs"
)

// zfsPlace opens the machine's ZFS, through another program where one is named.
func zfsPlace(t *testing.T, program string) *cairn.Endpoint {
	t.Helper()
	p, err := zfs.Open(t.Context(), zfs.Options{ZFS: program, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p.Endpoint(zfs.Job{Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
}

func zfsVersion(t *testing.T, ep *cairn.Endpoint, dataset, name string) cairn.VersionID {
	t.Helper()
	for l, err := range ep.Lister.List(t.Context(), cairn.Query{Filter: cairn.All, Names: []string{dataset}, Want: cairn.Want{Versions: true}}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range l.Versions {
			if v.Name == name {
				return v.VersionID
			}
		}
	}
	t.Fatalf("%s%s is not listed", dataset, name)
	return cairn.VersionID{}
}

// stopped stops its writer's process as soon as the first bytes were taken.
type stopped struct {
	io.ReadCloser
	seen    int
	pattern string
	t       *testing.T
	did     chan struct{}
}

func (s *stopped) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if s.seen += n; s.seen > 1<<20 && s.did != nil {
		out, kerr := exec.Command("pkill", "-STOP", "-f", s.pattern).CombinedOutput()
		if kerr != nil {
			s.t.Errorf("stop: %v %s", kerr, out)
		}
		close(s.did)
		s.did = nil
	}
	return n, err
}

// A zfs receive that is stopped in the middle of a stream is ended with its context,
// what it had is kept, and the dataset can be received afterwards.
func TestZFSStoppedReceive(t *testing.T) {
	inside(t)
	pool := zfsPool(t, 256)
	ep := zfsPlace(t, "")
	run(t, fmt.Sprintf("zfs create %[1]s/a && head -c 20M /dev/urandom >/mnt/%[1]s/a/f && zfs snapshot %[1]s/a@1", pool))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := ep.Sender.Send(ctx, cairn.Step{Dataset: pool + "/a", To: zfsVersion(t, ep, pool+"/a", "@1")}, []cairn.Format{cairn.FormatZFS})
	if err != nil {
		t.Fatal(err)
	}
	did := make(chan struct{})
	s.Header.Dataset = pool + "/b"
	s.Body = &stopped{ReadCloser: s.Body, pattern: "zfs receive -s .* " + pool + "/b", t: t, did: did}
	done := make(chan error, 1)
	go func() {
		_, err := ep.Receiver.Receive(ctx, s, cairn.ReceiveOptions{})
		done <- err
	}()
	<-did
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a stopped receive ends with %v", err)
	}
	if out, _ := exec.Command("pgrep", "-f", "zfs receive -s .* "+pool+"/b").Output(); len(out) > 0 {
		t.Errorf("the program is still there: %s", out)
	}
	s, err = ep.Sender.Send(t.Context(), cairn.Step{Dataset: pool + "/a", To: zfsVersion(t, ep, pool+"/a", "@1")}, []cairn.Format{cairn.FormatZFS})
	if err != nil {
		t.Fatal(err)
	}
	s.Header.Dataset = pool + "/b"
	if _, err := ep.Receiver.Receive(t.Context(), s, cairn.ReceiveOptions{}); err != nil {
		t.Errorf("receive after it: %v", err)
	}
	run(t, fmt.Sprintf("zfs mount -a; cmp /mnt/%[1]s/a/f /mnt/%[1]s/b/f", pool))
}

// A user without rights is told which to give; with them he sends and holds.
func TestZFSAllow(t *testing.T) {
	inside(t)
	pool := zfsPool(t, 128)
	program := filepath.Join(t.TempDir(), "zfs")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups zfs \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, fmt.Sprintf("chmod 666 /dev/zfs; zfs create -o mountpoint=none %[1]s/a && zfs snapshot %[1]s/a@1", pool))
	ep := zfsPlace(t, program)
	name := pool + "/a"
	id := zfsVersion(t, ep, name, "@1")
	hold := func() error {
		return ep.Leases.SetLease(t.Context(), cairn.LeaseSet{Dataset: name, Owner: "j", Purpose: cairn.PurposeStep, Versions: []cairn.VersionID{id}})
	}
	for what, call := range map[string]func() error{
		"hold": hold,
		"send": func() error {
			s, err := ep.Sender.Send(t.Context(), cairn.Step{Dataset: name, To: id}, []cairn.Format{cairn.FormatZFS})
			if err == nil {
				err = s.Body.Close()
			}
			return err
		},
		"bookmark": func() error {
			_, err := ep.Bookmarks.Bookmark(t.Context(), name, id, "#m", false)
			return err
		},
		"destroy": func() error {
			results, err := ep.Destroys.Destroy(t.Context(), name, []cairn.VersionID{id})
			return errors.Join(append(results, err)...)
		},
	} {
		if err := call(); !errors.Is(err, cairn.KindPermission) || !strings.Contains(err.Error(), "zfs allow ") {
			t.Errorf("%s without the right: %v (kind %s)", what, err, cairn.KindOf(err))
		}
	}
	run(t, fmt.Sprintf("zfs allow -u nobody hold,release,send,bookmark,snapshot,mount %s", name))
	if err := hold(); err != nil {
		t.Errorf("hold with the right: %v", err)
	}
	if got, err := ep.Snapshots.Snapshot(t.Context(), "@2", []string{name}, true); err != nil || got[0].Err != nil {
		t.Errorf("snapshot with the right: %v, %v", got, err)
	}
	s, err := ep.Sender.Send(t.Context(), cairn.Step{Dataset: name, To: id}, []cairn.Format{cairn.FormatZFS})
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, s.Body)
	if err = errors.Join(err, s.Body.Close()); err != nil {
		t.Errorf("send with the right: %v", err)
	}
}
