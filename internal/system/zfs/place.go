package zfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"strings"
	"sync"
	"time"

	"cairn"
)

// Options say which programs serve the place.
type Options struct {
	Name     string        // of the place, in messages; "here" when empty
	ZFS      string        // the program zfs; looked up in PATH when empty
	Devices  string        // folder of the zvols' device nodes, /dev/zvol; empty: content of zvols is not read
	Remember time.Duration // how long an endpoint may answer from what it listed before; 0: each listing asks zfs
	Grace    time.Duration // each rung of the ladder that ends a process; 0 is 5 s
	Log      *slog.Logger
}

// Place is a machine's ZFS. Its methods may be called from several goroutines.
type Place struct {
	o       Options
	version string

	mu        sync.Mutex // guards what follows
	processes map[string]int
	known     table
	users     map[reliance]int
	lingering []*process // abandoned, and perhaps not ended
	renewed   time.Time  // nothing that was listed before is listed from memory
}

// reliance is a version that a stream or a reader of this process relies on.
type reliance struct {
	dataset string
	id      cairn.VersionID
}

// Open finds out whether zfs works: `zfs version` answers with the version of the
// program and of the kernel's module. KindNotFound without the program,
// KindUnavailable without the module, KindUnsupported when it is another ZFS.
func Open(ctx context.Context, o Options) (*Place, error) {
	if o.Name == "" {
		o.Name = "here"
	}
	if o.ZFS == "" {
		o.ZFS = "zfs"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Place{o: o, processes: map[string]int{}, users: map[reliance]int{}}
	p.known.init()
	text, err := p.output(ctx, "version")
	if err == nil {
		p.version, err = parseVersion(text)
	}
	if err != nil {
		return nil, openFailed(err)
	}
	o.Log.Debug("found OpenZFS", "version", p.version)
	return p, nil
}

var versionLine = regexp.MustCompile(`^zfs-(\d+\.\d+\S*)\n(zfs-kmod-\d+\.\d+\S*)?`)

// oldVersion is what has no bookmarks of encrypted data and no `zfs version`.
var oldVersion = regexp.MustCompile(`^0\.[0-7]\.`)

func parseVersion(text string) (string, error) {
	m := versionLine.FindStringSubmatch(text)
	switch {
	case m == nil:
		return "", fmt.Errorf("`zfs version` says %q", shortened(text))
	case oldVersion.MatchString(m[1]):
		return "", fmt.Errorf("it is OpenZFS %s", m[1])
	case m[2] == "":
		return "", &cairn.Error{Op: "use", Subject: "OpenZFS " + m[1], Kind: cairn.KindUnavailable, Err: errors.New("its kernel module is not loaded"), Hint: "load it with `modprobe zfs`"}
	}
	return m[1], nil
}

func shortened(text string) string {
	if len(text) > 200 {
		return text[:200] + "…"
	}
	return text
}

func openFailed(err error) error {
	e := &cairn.Error{Op: "use", Subject: "ZFS", Kind: cairn.KindUnsupported, Err: err, Hint: "OpenZFS 0.8 or newer is needed, whose `zfs version` tells its version"}
	kind := cairn.KindOf(err)
	var run *cairn.Error
	if errors.As(err, &run) && run.Op == "run" { // its hint is about any program
		e.Err = run.Err
	}
	switch {
	case kind == cairn.KindCanceled, kind == cairn.KindStuck, kind == cairn.KindUnavailable:
		e.Kind, e.Hint = kind, ""
	case kind == cairn.KindNotFound:
		e.Kind, e.Hint = kind, "install OpenZFS (Debian: zfsutils-linux), or take ZFS out of the configuration"
	case kind == cairn.KindPermission, strings.Contains(err.Error(), "Permission denied"):
		e.Kind, e.Hint = cairn.KindPermission, "let this user run the program zfs and open /dev/zfs, or run as root"
	case strings.Contains(err.Error(), "modprobe") || strings.Contains(err.Error(), "not loaded") || strings.Contains(err.Error(), "/dev/zfs"):
		e.Kind, e.Hint = cairn.KindUnavailable, "load the kernel's module with `modprobe zfs`"
	}
	return e
}

// Renew makes every listing that follows a fresh one: what others did until now is
// seen. Call it when a run begins; listings within the run may then serve each other.
func (p *Place) Renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.renewed = time.Now()
}

// Close is for symmetry: a place keeps nothing open.
func (p *Place) Close() error { return nil }

// Version is that of OpenZFS' programs, "2.4.4-1".
func (p *Place) Version() string { return p.version }

// Processes counts what was started, by program and verb: "zfs list".
func (p *Place) Processes() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.processes)
}

// use marks versions as relied on by this process until the returned function is
// called.
func (p *Place) use(dataset string, ids ...cairn.VersionID) (release func()) {
	change := func(by int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, id := range ids {
			u := reliance{dataset, id}
			if p.users[u] += by; p.users[u] == 0 {
				delete(p.users, u)
			}
		}
	}
	change(1)
	return sync.OnceFunc(func() { change(-1) })
}

func (p *Place) used(dataset string, id cairn.VersionID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.users[reliance{dataset, id}] > 0
}
