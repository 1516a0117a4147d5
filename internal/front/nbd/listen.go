package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cairn"
)

// maxSocketPath leaves room, in the 107 bytes of a socket address, for the folder
// that the socket is bound in.
const maxSocketPath = 90

// ListenUnix listens on a unix socket that only its owner can open (mode 0600)
// from the moment it appears. The socket of a server that is gone is replaced;
// that of a server that answers fails with KindBusy. Closing the listener removes
// the socket.
func ListenUnix(path string) (net.Listener, error) {
	fail := func(kind cairn.Kind, err error, hint string) (net.Listener, error) {
		return nil, &cairn.Error{Op: "listen on", Subject: path, Kind: kind, Err: err, Hint: hint}
	}
	if len(path) > maxSocketPath {
		return fail(cairn.KindInvalid, nil, fmt.Sprintf("a socket's path has at most %d bytes", maxSocketPath))
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fail(cairn.KindIO, err, "")
	case info.Mode().Type() != fs.ModeSocket:
		return fail(cairn.KindExists, nil, "something other than a socket has this name; choose another")
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return fail(cairn.KindBusy, nil, "another server answers on this socket")
		}
	}
	// Bound in a folder of our own and moved into place, the socket is never
	// visible with wider rights.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".n")
	if err != nil {
		return fail(cairn.KindIO, err, "the socket's folder must exist and be writable")
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		return fail(cairn.KindIO, err, "")
	}
	l.SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(filepath.Join(dir, "s"), 0o600), os.Rename(filepath.Join(dir, "s"), path))
	if err != nil {
		_ = l.Close()
		return fail(cairn.KindIO, err, "")
	}
	return &unixListener{UnixListener: l, path: path}, nil
}

type unixListener struct {
	*net.UnixListener
	path string
	once sync.Once
}

// Addr is the socket's place, not the folder it was bound in.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close removes the socket, then stops listening. A second call does nothing: the
// name may belong to a successor by then.
func (l *unixListener) Close() error {
	var gone error
	l.once.Do(func() { gone = os.Remove(l.path) })
	return errors.Join(l.UnixListener.Close(), gone)
}
