package drive

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"cairn"
	"cairn/internal/mech/scsi"
)

// Options choose how a drive is opened by its name.
type Options struct {
	ReadOnly bool
	Look     bool         // only to tell what is there: a real drive is left as it is
	Logger   *slog.Logger // may be nil
}

// Open opens the drive of a name: a generic SCSI node (/dev/sg1), a folder of
// records, or a file Drive_SERIAL.PRODUCT that names the folder of the medium in it,
// as LTFS tools make for a drive without hardware. KindNotFound when there is no such thing or no
// medium in it, KindInvalid when it is something else.
func Open(ctx context.Context, name string, o Options) (Drive, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, openError(name, err)
	case info.IsDir():
		return openFolder(name, o)
	case info.Mode()&fs.ModeCharDevice != 0:
		return openNode(ctx, name, o)
	case info.Mode().IsRegular() && strings.HasPrefix(filepath.Base(name), "Drive_"):
		folder, err := mediumIn(name)
		if err != nil {
			return nil, err
		}
		return openFolder(folder, o)
	}
	return nil, &cairn.Error{Op: opOpen, Subject: name, Kind: cairn.KindInvalid, Err: errors.New("it is neither a folder of records nor a drive"), Hint: "cairn tape list shows the drives"}
}

func openError(name string, err error) error {
	err = ioError(opOpen, name, err)
	if e := (*cairn.Error)(nil); errors.As(err, &e) && e.Kind == cairn.KindNotFound {
		e.Hint = "cairn tape list shows the drives; cairn tape format makes a new folder"
	}
	return err
}

func openFolder(name string, o Options) (Drive, error) {
	f, err := OpenFolder(name, FolderOptions{ReadOnly: o.ReadOnly || o.Look})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func openNode(ctx context.Context, name string, o Options) (Drive, error) {
	t, err := scsi.OpenSg(name)
	if err != nil {
		return nil, err
	}
	d, err := OpenSCSI(ctx, t, name, SCSIOptions{ReadOnly: o.ReadOnly, Look: o.Look, Logger: o.Logger, Key: machineKey()})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// machineKey tells this machine's reservations from those of others, also after it
// was started anew.
func machineKey() uint64 {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(id) == 0 {
		host, _ := os.Hostname() // without either all nameless machines share a key
		id = []byte(host)
	}
	sum := sha256.Sum256(append([]byte("cairn tape reservation "), id...))
	return binary.BigEndian.Uint64(sum[:])
}

// mediumIn reads a drive file: its first 36 bytes name the folder of the medium,
// from the file's own folder; "empty" is none.
func mediumIn(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", openError(name, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 36))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", openError(name, err)
	}
	folder := strings.TrimRight(string(text), " \r\n\x00")
	switch {
	case folder == "empty":
		return "", &cairn.Error{Op: opOpen, Subject: name, Kind: cairn.KindNotFound, Err: errors.New("there is no medium in the drive"), Hint: "write the name of a tape's folder into this file"}
	case folder == "" || !filepath.IsLocal(folder):
		return "", &cairn.Error{Op: opOpen, Subject: name, Kind: cairn.KindInvalid, Err: errors.New("it is no drive: it does not name a tape's folder beside it")}
	}
	return filepath.Join(filepath.Dir(name), folder), nil
}
