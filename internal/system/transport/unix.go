package transport

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"cairn"
)

// maxSocketPath is what every supported system can hold in a socket's address.
const maxSocketPath = 103

// UnixOptions say where a unix socket lies and who its clients are.
type UnixOptions struct {
	Path     string // its folder is made with mode 0700, and refused when others may enter
	Identity string // of every client: whoever may open the socket
	Logger   *slog.Logger
}

// ListenUnix listens on a socket of mode 0600. A socket left behind by a dead
// process is replaced; a live one is KindBusy, any other file KindExists.
func ListenUnix(ctx context.Context, o UnixOptions) (Listener, error) {
	if err := CheckIdentity(o.Identity); err != nil {
		return nil, err
	}
	if err := prepareSocket(ctx, o.Path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", o.Path)
	if err != nil {
		return nil, socketError(o.Path, cairn.KindIO, err, "")
	}
	if err := os.Chmod(o.Path, 0o600); err != nil {
		_ = ln.Close() // the first error is the one to report
		return nil, socketError(o.Path, cairn.KindIO, err, "")
	}
	return newAcceptor(ln, 0, o.Logger, func(_ context.Context, raw net.Conn) (*Conn, error) {
		return &Conn{Conn: raw, Identity: o.Identity}, nil
	}), nil
}

func prepareSocket(ctx context.Context, path string) error {
	if len(path) > maxSocketPath {
		return socketError(path, cairn.KindInvalid, nil, "the path of a unix socket has at most 103 bytes; choose a shorter folder")
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return socketError(path, cairn.KindIO, err, "")
	}
	info, err := os.Stat(dir)
	if err != nil {
		return socketError(path, cairn.KindIO, err, "")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return socketError(path, cairn.KindPermission, errors.New("others may enter its folder"), "run: chmod 700 "+dir)
	}
	return removeStale(ctx, path)
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return socketError(path, cairn.KindIO, err, "")
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return socketError(path, cairn.KindExists, nil, "a file that is no socket is in the way")
	}
	c, err := (&net.Dialer{Timeout: DefaultLocalTimeout}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close() // it was only to see whether anybody answers
		return socketError(path, cairn.KindBusy, nil, "another process listens there; stop it first")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return socketError(path, cairn.KindIO, err, "")
	}
	return nil
}

func socketError(path string, kind cairn.Kind, err error, hint string) error {
	return &cairn.Error{Op: "listen on", Subject: path, Kind: kind, Err: err, Hint: hint}
}

// UnixDialer connects to a unix socket. A timeout of zero is DefaultLocalTimeout.
func UnixDialer(path string, timeout time.Duration) Dialer {
	d := net.Dialer{Timeout: orDefault(timeout, DefaultLocalTimeout)}
	return DialerFunc(func(ctx context.Context) (net.Conn, error) {
		c, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			return nil, dialError(ctx, path, err)
		}
		return c, nil
	})
}
