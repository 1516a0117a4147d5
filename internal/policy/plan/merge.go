package plan

import (
	"fmt"
	"iter"

	"cairn"
)

// Pair is one dataset name with what either place has of it; at least one is not
// nil.
type Pair struct {
	Name             string
	Sender, Receiver *cairn.Listing
}

// Merge walks two listings side by side by name. A nil listing is empty. It ends
// with the first error of either; a place that does not list in byte order of
// names, each once, is KindCorrupt, since pairs would be missed in silence.
func Merge(sender, receiver iter.Seq2[*cairn.Listing, error]) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		s, r := newSide(sender), newSide(receiver)
		defer s.stop()
		defer r.stop()
		for {
			if err := s.fill(); err != nil {
				yield(Pair{}, err)
				return
			}
			if err := r.fill(); err != nil {
				yield(Pair{}, err)
				return
			}
			pair, ok := take(s, r)
			if !ok || !yield(pair, nil) {
				return
			}
		}
	}
}

// take makes the next pair of what both sides hold.
func take(s, r *side) (Pair, bool) {
	switch {
	case s.held == nil && r.held == nil:
		return Pair{}, false
	case r.held == nil || s.held != nil && s.held.Dataset.Name < r.held.Dataset.Name:
		l := s.take()
		return Pair{Name: l.Dataset.Name, Sender: l}, true
	case s.held == nil || r.held.Dataset.Name < s.held.Dataset.Name:
		l := r.take()
		return Pair{Name: l.Dataset.Name, Receiver: l}, true
	}
	l := s.take()
	return Pair{Name: l.Dataset.Name, Sender: l, Receiver: r.take()}, true
}

// side is one listing under way: at most one dataset is held.
type side struct {
	next func() (*cairn.Listing, error, bool)
	stop func()
	held *cairn.Listing
	last string
	any  bool
	end  bool
}

func newSide(seq iter.Seq2[*cairn.Listing, error]) *side {
	if seq == nil {
		return &side{end: true, stop: func() {}}
	}
	s := &side{}
	s.next, s.stop = iter.Pull2(seq)
	return s
}

func (s *side) fill() error {
	if s.held != nil || s.end {
		return nil
	}
	l, err, ok := s.next()
	if !ok {
		s.end = true
		return nil
	}
	if err != nil {
		return err
	}
	name := l.Dataset.Name
	if s.any && name <= s.last {
		return &cairn.Error{Op: "read listing", Subject: name, Kind: cairn.KindCorrupt,
			Err: fmt.Errorf("it comes after %s: a place lists in byte order, each dataset once", s.last)}
	}
	s.held, s.last, s.any = l, name, true
	return nil
}

func (s *side) take() *cairn.Listing {
	l := s.held
	s.held = nil
	return l
}
