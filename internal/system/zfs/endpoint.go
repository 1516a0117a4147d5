package zfs

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// SendOptions are zrepl's `send:`. Of its flags only `saved` is missing: zfs send -S
// takes no snapshot, so that no step can be sent with it.
type SendOptions struct {
	Encrypted        bool // every dataset must be encrypted, and is sent raw (-w)
	Raw              bool // -w for datasets that are not encrypted
	Properties       bool // -p
	BackupProperties bool // -b
	LargeBlocks      bool // -L
	Compressed       bool // -c
	EmbeddedData     bool // -e
}

// PlaceholderEncryption says whether placeholders are encrypted.
type PlaceholderEncryption uint8

// The choices; the zero value refuses to make placeholders, as zrepl does.
const (
	Unspecified PlaceholderEncryption = iota
	Inherit                           // as the dataset above
	Off
)

var placeholderWords = [...]string{"unspecified", "inherit", "off"}

// ParsePlaceholderEncryption reads the word of the configuration; empty is
// unspecified.
func ParsePlaceholderEncryption(word string) (PlaceholderEncryption, error) {
	if word == "" {
		return Unspecified, nil
	}
	if i := slices.Index(placeholderWords[:], word); i >= 0 {
		return PlaceholderEncryption(i), nil
	}
	return 0, &cairn.Error{Op: "use", Subject: fmt.Sprintf("placeholder encryption %q", word), Kind: cairn.KindConfig, Hint: "write unspecified, inherit or off"}
}

// ReceiveOptions are zrepl's `recv:`.
type ReceiveOptions struct {
	Inherit     []string          // properties that received datasets inherit (-x)
	Override    map[string]string // properties that received datasets get (-o)
	Placeholder PlaceholderEncryption
	Root        string // root_fs: a placeholder right below it needs no choice of encryption
}

// manyVersions is how many versions one stream (-I) carries: a run that is far
// behind still shows its progress in steps.
const manyVersions = 2000

// Job is what one job wants of its endpoint.
type Job struct {
	Send    SendOptions
	Receive ReceiveOptions
}

// side is an endpoint of the place.
type side struct {
	place *Place
	job   Job
	since time.Time
}

// Endpoint is the place as one job sees it. Make one per run: what it listed once it
// may list again from memory, for Options.Remember. Closing it closes nothing.
func (p *Place) Endpoint(job Job) *cairn.Endpoint {
	s := &side{place: p, job: job, since: time.Now()}
	formats := map[cairn.DatasetKind][]cairn.Format{cairn.KindFilesystem: {cairn.FormatZFS}, cairn.KindZvol: {cairn.FormatZFS}}
	accepts := maps.Clone(formats)
	accepts[cairn.KindVolume] = []cairn.Format{cairn.FormatZFS} // one that a volume's place makes arrives as a zvol
	several := map[cairn.DatasetKind]int{cairn.KindFilesystem: manyVersions, cairn.KindZvol: manyVersions}
	ep := &cairn.Endpoint{Info: cairn.Info{Place: p.o.Name, Sends: formats, Accepts: accepts, Several: several, Clones: slices.Sorted(maps.Keys(formats))},
		Lister: s, Sender: s, Receiver: s, Snapshots: s, Bookmarks: s, Destroys: s, Leases: s, Estimates: s, Rollbacks: s, Resizes: s, Renames: s, Seals: s}
	if p.o.Devices != "" {
		ep.Blocks = s
	}
	return ep
}

// List streams the selected datasets, from memory where this endpoint listed them
// before and nobody can have changed them since but us.
func (s *side) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		for d, err := range s.datasets(ctx, q) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(d.listing(q.Want), nil) {
				return
			}
		}
	}
}

// Estimate adds up what the listing says: what was written between two versions, or
// what a full one refers to. -1 where that is not known. It costs no process when
// the datasets were listed.
func (s *side) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	sizes := make([]int64, len(steps))
	for i, step := range steps {
		ids := []cairn.VersionID{step.To}
		if !step.From.IsZero() && step.Origin == "" {
			ids = append(ids, step.From)
		}
		d, err := s.place.whole(ctx, "estimate", step.Dataset, ids...)
		if err != nil {
			return nil, err
		}
		sizes[i] = d.estimate(step)
	}
	return sizes, nil
}

func (d *dataset) estimate(step cairn.Step) int64 {
	to := d.find(step.To.Name)
	if step.Resume != nil {
		return -1
	}
	if step.From.IsZero() {
		return to.numbers[referenced]
	}
	from, sum := uint64(0), int64(0)
	if step.Origin == "" { // the first snapshot of a clone counts from its origin
		from = d.find(step.From.Name).order
	}
	for i := range d.versions {
		if v := &d.versions[i]; v.kind == "snapshot" && v.order > from && v.order <= to.order {
			sum += v.numbers[written]
		}
	}
	return sum
}

// partial is the cut receive that the dataset's token tells of. A token that cannot
// be read is handed on empty: the plan then gives the receive up.
func (d *dataset) partial() *cairn.Partial {
	t, err := zfsstream.ParseToken(d.token())
	if err != nil {
		return &cairn.Partial{}
	}
	_, name, _ := strings.Cut(t.ToName, "@")
	p := &cairn.Partial{To: cairn.VersionID{Name: "@" + name, GUID: t.ToGUID}, Received: int64(t.Bytes), Token: []byte(d.token())}
	for i := range d.versions {
		if v := &d.versions[i]; v.guid == t.FromGUID {
			p.From = v.id() // the snapshot follows its bookmarks
		}
	}
	if p.From.IsZero() {
		p.From.GUID = t.FromGUID // of a clone: a version of its origin
	}
	return p
}
