package restore

import (
	"context"
	"iter"

	"cairn"
)

// renamed shows one dataset of a place under another name, to list and to send.
func renamed(ep *cairn.Endpoint, from, to string) *cairn.Endpoint {
	n := alias{ep: ep, from: from, to: to}
	return &cairn.Endpoint{Info: ep.Info, Lister: n, Sender: n}
}

type alias struct {
	ep       *cairn.Endpoint
	from, to string
}

// List implements cairn.Lister; the query is for the one dataset.
func (n alias) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	q.Names = []string{n.from}
	return func(yield func(*cairn.Listing, error) bool) {
		for l, err := range n.ep.Lister.List(ctx, q) {
			if err == nil {
				l.Dataset.Name = n.to
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// Send implements cairn.Sender.
func (n alias) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	step.Dataset = n.from
	s, err := n.ep.Sender.Send(ctx, step, accept)
	if err == nil {
		s.Header.Dataset = n.to
	}
	return s, err
}
