package api

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"cairn"
)

// maxSocketPath is what fits into sockaddr_un on every system we run on.
const maxSocketPath = 103

// Listen makes the control socket at the path, and its folder when it is missing.
// A socket left behind by a daemon that was killed is replaced; one that answers
// is KindBusy.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	const op = "open control socket"
	fail := func(kind cairn.Kind, err error, hint string) error {
		return &cairn.Error{Op: op, Subject: path, Kind: kind, Err: err, Hint: hint}
	}
	if len(path) > maxSocketPath {
		return nil, fail(cairn.KindInvalid, errors.New("the path is too long for a unix socket"), "set global.control.sockpath to a shorter path")
	}
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fail(cairn.KindPermission, err, "create the folder, or set global.control.sockpath")
	}
	info, err := os.Stat(folder)
	if err != nil {
		return nil, fail(cairn.KindIO, err, "")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fail(cairn.KindPermission, errors.New("others may enter its folder (mode "+info.Mode().Perm().String()+")"), "chmod 0700 "+folder)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fail(cairn.KindIO, err, "")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fail(cairn.KindIO, errors.Join(err, l.Close()), "")
	}
	return l, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	fail := func(kind cairn.Kind, err error, hint string) error {
		return &cairn.Error{Op: "open control socket", Subject: path, Kind: kind, Err: err, Hint: hint}
	}
	if err != nil {
		return fail(cairn.KindIO, err, "")
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fail(cairn.KindExists, errors.New("something that is not a socket is there"), "move it away, or set global.control.sockpath")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fail(cairn.KindBusy, errors.New("a daemon listens there"), "end it first; 'cairn version' names its process")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(cairn.KindIO, err, "")
	}
	return nil
}
