package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
)

// lookLimit is how long a look at a peer may take before the kept listing answers.
const lookLimit = 5 * time.Second

var everything = cairn.Want{Versions: true, Leases: true, Sizes: true, Partial: true}

// Listings tells what each place holds of the dataset (empty: of all); place
// limits it to one. Peers are asked side by side; one that does not answer soon
// is listed as it was last seen, with the reason in Error.
func Listings(ctx context.Context, h *Here, dataset, place string) ([]client.Place, error) {
	q := cairn.Query{Filter: cairn.All, Want: everything}
	if dataset != "" {
		q.Names = []string{dataset}
	}
	var places []client.Place
	if place == "" || place == HereName {
		found, err := DescribeAll(ctx, h.Endpoint, q)
		if err != nil {
			return nil, err
		}
		places = append(places, client.Place{Name: HereName, Seen: time.Now(), Datasets: found})
	}
	if place != HereName {
		jobs := peerJobs(h.cfg, place)
		if len(jobs) == 0 && place != "" {
			return nil, h.unknownPlace(place)
		}
		places = append(places, h.lookAll(ctx, onePerPlace(jobs), q)...)
	}
	for _, p := range places {
		if dataset == "" || len(p.Datasets) > 0 || p.Error != "" {
			return places, nil
		}
	}
	return nil, &cairn.Error{Op: "find dataset", Subject: dataset, Place: place, Kind: cairn.KindNotFound, Hint: "'cairn list' shows what there is"}
}

// onePerPlace keeps the first job of each place.
func onePerPlace(jobs []*config.Job) []*config.Job {
	seen := map[string]bool{}
	var kept []*config.Job
	for _, j := range jobs {
		if name := placeOf(j.Connect); !seen[name] {
			seen[name] = true
			kept = append(kept, j)
		}
	}
	return kept
}

func (h *Here) lookAll(ctx context.Context, jobs []*config.Job, q cairn.Query) []client.Place {
	places := make([]client.Place, len(jobs))
	var looks sync.WaitGroup
	for i, j := range jobs {
		looks.Go(func() { places[i] = h.look(ctx, j, q) })
	}
	looks.Wait()
	return places
}

// look asks a peer, or remembers what it held.
func (h *Here) look(ctx context.Context, j *config.Job, q cairn.Query) client.Place {
	bounded, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	found, err := h.askPeer(bounded, j, q)
	if err == nil {
		return client.Place{Name: placeOf(j.Connect), Seen: time.Now(), Datasets: found}
	}
	p, keptErr := h.kept(j.Name, q.Names)
	p.Name, p.Error = placeOf(j.Connect), err.Error()
	if keptErr != nil && !errors.Is(keptErr, fs.ErrNotExist) {
		p.Error += "; " + keptErr.Error()
	}
	return p
}

func (h *Here) askPeer(ctx context.Context, j *config.Job, q cairn.Query) ([]client.Listing, error) {
	ep, err := h.dialPeer(ctx, j)
	if err != nil {
		return nil, err
	}
	found, err := DescribeAll(ctx, ep, q)
	if closing := closeEndpoint(ep); err == nil && closing != nil {
		err = closing
	}
	return found, err
}

func closeEndpoint(ep *cairn.Endpoint) error {
	if ep == nil || ep.Close == nil {
		return nil
	}
	return ep.Close()
}

// keptHead is the first line of a kept listing; a client.Listing per line follows
// (docs/formats/listings.md).
type keptHead struct {
	Layout int       `json:"layout"`
	Place  string    `json:"place"`
	Seen   time.Time `json:"seen"`
}

const keptLayout = 1

func (h *Here) keptFile(job string) string {
	return filepath.Join(h.cfg.Global.State, "listings", job+".jsonl")
}

// keep writes down what a peer holds, one dataset at a time, and passes each
// listing on to see.
func (h *Here) keep(ctx context.Context, job, place string, ep *cairn.Endpoint, see func(*cairn.Listing)) error {
	file := h.keptFile(job)
	fail := func(err error) error {
		return &cairn.Error{Op: "keep listing", Subject: file, Kind: cairn.KindIO, Err: err}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".listing")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when it was renamed
	err = writeKept(ctx, f, place, ep, see)
	if closing := f.Close(); err == nil && closing != nil {
		err = fail(closing)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fail(err)
	}
	return nil
}

func writeKept(ctx context.Context, f *os.File, place string, ep *cairn.Endpoint, see func(*cairn.Listing)) error {
	w := bufio.NewWriter(f)
	e := json.NewEncoder(w)
	if err := e.Encode(keptHead{Layout: keptLayout, Place: place, Seen: time.Now()}); err != nil {
		return err
	}
	for l, err := range ep.Lister.List(ctx, cairn.Query{Filter: cairn.All, Want: cairn.Want{Versions: true, Partial: true}}) {
		if err != nil {
			return err
		}
		see(l)
		if err := e.Encode(Describe(l)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// kept reads what was last seen through a job's connection; names limits it. A
// place never listed is fs.ErrNotExist.
func (h *Here) kept(job string, names []string) (client.Place, error) {
	f, err := os.Open(h.keptFile(job))
	if err != nil {
		return client.Place{}, err
	}
	defer func() { _ = f.Close() }() // only read
	d := json.NewDecoder(bufio.NewReader(f))
	var head keptHead
	if err := d.Decode(&head); err != nil || head.Layout != keptLayout {
		return client.Place{}, &cairn.Error{Op: "read kept listing", Subject: f.Name(), Kind: cairn.KindCorrupt, Err: err, Hint: "remove it; it is written anew"}
	}
	p := client.Place{Name: head.Place, Seen: head.Seen, Datasets: []client.Listing{}}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	for d.More() {
		var l client.Listing
		if err := d.Decode(&l); err != nil {
			return p, &cairn.Error{Op: "read kept listing", Subject: f.Name(), Kind: cairn.KindCorrupt, Err: err, Hint: "remove it; it is written anew"}
		}
		if len(names) == 0 || wanted[l.Dataset] {
			p.Datasets = append(p.Datasets, l)
		}
	}
	return p, nil
}
