package prune

import (
	"context"
	"fmt"

	"cairn"
	"cairn/internal/mech/watchdog"
)

// destroy does what the verdicts of one dataset say, in one batch, under the
// watchdog.
func destroy(ctx context.Context, o *Options, d *DatasetReport) error {
	w := o.Watchdog
	w.Op, w.Subject, w.Place, w.Lock = "prune", d.Dataset, o.Target.Info.Place, d.Dataset
	var ids []cairn.VersionID
	var at []int // index into d.Versions
	for i, v := range d.Versions {
		if v.Action != Keep {
			ids, at = append(ids, v.id), append(at, i)
		}
	}
	b := batch{Options: o, dataset: d.Dataset, ids: ids, bookmarks: map[int]string{}}
	for k, i := range at {
		if v := d.Versions[i]; v.Action == Bookmark {
			b.bookmarks[k] = cursorName(v.id.GUID, o.Owner)
		}
	}
	results, err, _ := watchdog.Value(ctx, &watchdog.Progress{}, w, b.run)
	if err == nil {
		err = d.book(at, results)
	}
	if err != nil {
		d.Error, d.ErrorKind = err.Error(), cairn.KindOf(err).String()
		d.recount()
	}
	return err
}

// batch is what one dataset's destruction works on; an abandoned one touches
// nothing else.
type batch struct {
	*Options
	dataset   string
	ids       []cairn.VersionID
	bookmarks map[int]string // index into ids → bookmark to make first
}

func (b *batch) run(ctx context.Context) ([]error, error) {
	progress := watchdog.From(ctx)
	progress.Enter("bookmark")
	for i, name := range b.bookmarks {
		if _, err := b.Target.Bookmarks.Bookmark(ctx, b.dataset, b.ids[i], name, false); err != nil {
			return nil, err
		}
	}
	progress.Enter("destroy")
	results, err := b.Target.Destroys.Destroy(ctx, b.dataset, b.ids)
	if err == nil && len(results) != len(b.ids) {
		err = &cairn.Error{Op: "prune", Subject: b.dataset, Place: b.Target.Info.Place, Kind: cairn.KindCorrupt,
			Err: fmt.Errorf("%d results for %d versions", len(results), len(b.ids))}
	}
	return results, err
}

// book writes the results down. A version that somebody leased meanwhile is kept;
// that is no error.
func (d *DatasetReport) book(at []int, results []error) error {
	var first error
	for k, err := range results {
		v := &d.Versions[at[k]]
		switch {
		case err == nil:
			v.Done = true
			continue
		case cairn.KindOf(err) == cairn.KindBusy:
			v.Reasons = append([]string{"was leased meanwhile: " + err.Error()}, v.Reasons...)
		default:
			v.Error = err.Error()
			if first == nil {
				first = err
			}
		}
		v.Action = Keep
		d.Kept++
		d.Destroyed--
	}
	return first
}

// recount is for a batch of which nothing, or not all, is known to be done.
func (d *DatasetReport) recount() {
	d.Kept, d.Destroyed = 0, 0
	for _, v := range d.Versions {
		if v.Done {
			d.Destroyed++
		} else {
			d.Kept++
		}
	}
}
