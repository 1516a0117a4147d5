package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cairn"
	"cairn/internal/mech/kernel"
)

// A registry is a folder tree in which each component of a volume's name is a
// folder; the volume itself is the entry "+store" in it: its store, or a file with
// the path of the store. '+' is in no name, so that "a" and "a/b" can both be
// volumes.
const storeEntry = "+store"

type registry string

func (r registry) entry(name string) string {
	return filepath.Join(string(r), filepath.FromSlash(name), storeEntry)
}

// store gives the folder of the volume's store.
func (r registry) store(name string) (string, error) {
	if err := cairn.CheckDatasetName(name); err != nil {
		return "", err
	}
	entry := r.entry(name)
	st, err := os.Stat(entry)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", &cairn.Error{Op: "find volume", Subject: name, Kind: cairn.KindNotFound}
	}
	if err != nil || st.IsDir() {
		return entry, err
	}
	path, err := os.ReadFile(entry)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(path)), nil
}

// names lists the volumes in byte order of their names.
func (r registry) names() ([]string, error) {
	var names []string
	err := filepath.WalkDir(string(r), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // destroyed meanwhile
			}
			return err
		}
		if d.Name() != storeEntry {
			return nil
		}
		rel, err := filepath.Rel(string(r), filepath.Dir(path))
		if err != nil {
			return err
		}
		names = append(names, filepath.ToSlash(rel))
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// prepare makes the folders above the volume's entry.
func (r registry) prepare(name string) error {
	if err := cairn.CheckDatasetName(name); err != nil {
		return err
	}
	entry := r.entry(name)
	if _, err := os.Lstat(entry); err == nil {
		return &cairn.Error{Op: "make volume", Subject: name, Kind: cairn.KindExists}
	}
	if err := os.MkdirAll(filepath.Dir(entry), 0o700); err != nil {
		return err
	}
	return syncUp(filepath.Dir(entry), string(r))
}

// syncUp makes the names of folders durable, from dir up to root.
func syncUp(dir, root string) error {
	for {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err = errors.Join(d.Sync(), d.Close()); err != nil || dir == root {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// point makes the volume's entry name a store elsewhere, durably.
func (r registry) point(name, store string) error {
	entry := r.entry(name)
	f, err := os.OpenFile(entry+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, store+"\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(entry+".new", entry); err != nil {
		return err
	}
	return syncUp(filepath.Dir(entry), filepath.Dir(entry))
}

// rename moves the entry; what lies below the old name stays where it is.
func (r registry) rename(from, to string) error {
	if err := r.prepare(to); err != nil {
		return err
	}
	if err := os.Rename(r.entry(from), r.entry(to)); err != nil {
		return err
	}
	if err := syncUp(filepath.Dir(r.entry(to)), string(r)); err != nil {
		return err
	}
	if err := syncUp(filepath.Dir(r.entry(from)), string(r)); err != nil {
		return err
	}
	r.prune(from)
	return nil
}

// prune removes the folders of a name that hold nothing any more.
func (r registry) prune(name string) {
	for dir := filepath.Dir(r.entry(name)); dir != string(r); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			return // another volume lives below
		}
	}
}

// remove deletes the store's files, the catalog first: without it nothing is a
// volume, whatever a crash leaves.
func (r registry) remove(name, store string) error {
	if err := os.Remove(filepath.Join(store, "catalog")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entry := r.entry(name)
	if store != entry {
		if err := os.Remove(entry); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(store); err != nil {
		return err
	}
	if err := syncUp(filepath.Dir(entry), string(r)); err != nil {
		return err
	}
	r.prune(name)
	return nil
}

// host is what a lock file says: who has the volume open.
type host struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket,omitempty"`
}

// lockStore takes the store for this process. When another has it, the host is
// that one's and the file nil.
func lockStore(store string, self host) (*os.File, host, error) {
	f, err := os.OpenFile(filepath.Join(store, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, host{}, err
	}
	err = kernel.Lock(f)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		var other host
		text, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, host{}, err
		}
		// A host that is just starting has not written its line yet.
		_ = json.Unmarshal(text, &other)
		return nil, other, nil
	}
	if err == nil {
		var text []byte
		if text, err = json.Marshal(self); err == nil {
			// Not truncated first: on a full disk its room would be gone.
			if _, err = f.WriteAt(append(text, '\n'), 0); err == nil {
				err = f.Truncate(int64(len(text)) + 1)
			}
		}
	}
	if err != nil {
		return nil, host{}, errors.Join(err, f.Close())
	}
	return f, host{}, nil
}

// unfit are the file systems on which a store cannot keep its promises.
var unfit = map[string]string{
	"tmpfs": "keeps nothing across a restart", "ramfs": "keeps nothing across a restart", "overlay": "cannot make folders durable",
	"nfs": "has no local durability", "cifs": "has no local durability", "smb": "has no local durability", "9p": "has no local durability",
	"ceph": "has no local durability", "squashfs": "is read-only", "vfat": "has no holes",
}

// checkFileSystem refuses a folder on a file system where a store would be lost or
// would lie.
func checkFileSystem(dir string, nameOf func(string) (string, error)) error {
	name, err := nameOf(dir)
	if err != nil {
		return err
	}
	if why := unfit[name]; why != "" {
		return &cairn.Error{Op: "keep a store in", Subject: dir, Kind: cairn.KindUnsupported, Err: fmt.Errorf("%s %s", name, why),
			Hint: "choose a folder on a local ext4, xfs or btrfs file system"}
	}
	return nil
}
