package fakezfs

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// state is all of a ZFS, kept as one file.
type state struct {
	Txg      uint64
	Datasets map[string]*dataset
	Faults   []*Fault
	Full     int64
	Limited  bool
	Nodes    map[string]string // devices by name, with what each holds
	dir      string
}

type dataset struct {
	Kind      string // "filesystem" or "volume"
	GUID      uint64
	Txg       uint64
	Created   int64
	Size      int64 // of a volume
	Props     map[string]string
	Content   string // blob of the head
	Modified  bool   // since the newest snapshot
	Written   int64  // since the newest snapshot
	Origin    string
	Encrypted string // "off", or the cipher
	Snapshots []*snapshot
	Bookmarks []*bookmark
	Partial   *partial
}

type snapshot struct {
	Name    string
	GUID    uint64
	Txg     uint64
	Created int64
	Size    int64
	Content string
	Written int64
	Holds   map[string]int64
	Clones  int
}

type bookmark struct {
	Name    string
	GUID    uint64
	Txg     uint64
	Created int64
	Content string // what a real one knows by the birth of blocks
}

// partial is a receive that was cut.
type partial struct {
	Token    string
	ToGUID   uint64
	FromGUID uint64
	Name     string
	Created  int64
	Size     int64
	Content  string
	Offset   int64
}

// withState runs do on the state, alone; with write, what do changed is kept when it
// succeeds.
func withState(dir string, write bool, do func(s *state) error) (err error) {
	lock, err := os.OpenFile(filepath.Join(dir, marker), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := lockFile(lock, exclusive); err != nil {
		return err
	}
	s := &state{Datasets: map[string]*dataset{}, dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, "state"))
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := do(s); err != nil || !write {
		return err
	}
	if err := s.nodes(); err != nil {
		return err
	}
	if text, err = json.Marshal(s); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "state.new"), text, 0o600); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, "state.new"), filepath.Join(dir, "state"))
}

func (s *state) tick() uint64 {
	s.Txg++
	return s.Txg
}

func (s *state) make(name, kind string) *dataset {
	d := &dataset{Kind: kind, GUID: rand.Uint64() | 1, Txg: s.tick(), Created: time.Now().Unix(), Props: map[string]string{}, Encrypted: "off"}
	if above := s.Datasets[parent(name)]; above != nil {
		d.Encrypted = above.Encrypted
	}
	s.Datasets[name] = d
	return d
}

func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ""
	}
	return name[:i]
}

// store keeps content under its hash. Zeroes at the end are not kept.
func (s *state) store(content []byte) string {
	n := len(content)
	for n > 0 && content[n-1] == 0 {
		n--
	}
	if n == 0 {
		return ""
	}
	sum := sha256.Sum256(content[:n])
	id := hex.EncodeToString(sum[:])
	file := filepath.Join(s.dir, "blobs", id)
	if _, err := os.Stat(file); err != nil {
		if err := os.WriteFile(file, content[:n], 0o600); err != nil {
			panic(fmt.Sprintf("fakezfs: %v", err))
		}
	}
	return id
}

func (s *state) blob(id string) ([]byte, error) {
	if id == "" {
		return nil, nil
	}
	return os.ReadFile(filepath.Join(s.dir, "blobs", id))
}

// property is the value that holds for a dataset, inherited if need be.
func (s *state) property(name, property string) string {
	for ; name != ""; name = parent(name) {
		if d := s.Datasets[name]; d != nil {
			if v, set := d.Props[property]; set {
				return v
			}
		}
	}
	return map[string]string{"readonly": "off"}[property]
}

// nodes makes the devices of zvols' snapshots what the state says: files that hold
// the content to its last byte. Nodes tells what is there already.
func (s *state) nodes() error {
	want := map[string]string{}
	for name, d := range s.Datasets {
		if d.Kind != "volume" || s.property(name, "snapdev") != "visible" {
			continue
		}
		for _, v := range d.Snapshots {
			want[name+"@"+v.Name] = fmt.Sprintf("%s-%d", cmp.Or(v.Content, "zero"), v.Size)
		}
	}
	if maps.Equal(want, s.Nodes) {
		return nil
	}
	for name, image := range s.Nodes {
		if want[name] != image {
			if err := os.Remove(filepath.Join(s.dir, "dev", name)); err != nil {
				return err
			}
		}
	}
	for name, image := range want {
		if s.Nodes[name] != image {
			if err := s.node(filepath.Join(s.dir, "dev", name), image); err != nil {
				return err
			}
		}
	}
	s.Nodes = want
	return nil
}

// node makes a device: a link to the one file that all snapshots of the same
// content and size share.
func (s *state) node(path, image string) error {
	file := filepath.Join(s.dir, "blobs", image)
	if _, err := os.Stat(file); err != nil {
		id, size, _ := strings.Cut(image, "-")
		content, err := s.blob(strings.TrimPrefix(id, "zero"))
		n, perr := strconv.ParseInt(size, 10, 64)
		if err := errors.Join(err, perr, os.WriteFile(file, content, 0o600), os.Truncate(file, n)); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.Link(file, path))
}

func (d *dataset) snapshot(name string) *snapshot {
	if i := slices.IndexFunc(d.Snapshots, func(v *snapshot) bool { return v.Name == name }); i >= 0 {
		return d.Snapshots[i]
	}
	return nil
}

func (d *dataset) bookmark(name string) *bookmark {
	if i := slices.IndexFunc(d.Bookmarks, func(v *bookmark) bool { return v.Name == name }); i >= 0 {
		return d.Bookmarks[i]
	}
	return nil
}

func (d *dataset) newest() *snapshot {
	if len(d.Snapshots) == 0 {
		return nil
	}
	return d.Snapshots[len(d.Snapshots)-1]
}

// below are a dataset and all that lie below it, in order.
func (s *state) below(name string) []string {
	names := slices.Sorted(maps.Keys(s.Datasets))
	return slices.DeleteFunc(names, func(n string) bool { return n != name && !strings.HasPrefix(n, name+"/") })
}

// sending are the snapshots that running sends read: "dataset@snapshot", each a file
// whose lock the sender holds.
func (s *state) sending(name string) bool {
	f, err := os.OpenFile(sendingFile(s.dir, name), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // nothing is written
	return lockFile(f, exclusive|atOnce) != nil
}

// sendingFile is named by a hash: a snapshot's name may be as long as a file's.
func sendingFile(dir, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(dir, "sending-"+hex.EncodeToString(sum[:]))
}
