package verify

import (
	"context"
	"errors"

	"cairn"
)

// mender heals blocks as the comparison finds them, a batch at a time.
type mender struct {
	c       *comparison
	waiting []suspect
	content [2]cairn.BlockReader // of a and b, opened when first needed
	left    int
}

// suspect is a block that is not equal on both sides.
type suspect struct {
	offset, length int64
	bad            [2]bool // at a, at b
}

func (m *mender) add(ctx context.Context, x, y cairn.Digest) error {
	m.waiting = append(m.waiting, suspect{x.Offset, x.Length, [2]bool{x.Bad, y.Bad}})
	if len(m.waiting) < batch {
		return nil
	}
	return m.flush(ctx)
}

func (m *mender) finish(ctx context.Context) error {
	err := m.flush(ctx)
	for _, r := range m.content {
		if r != nil {
			err = errors.Join(err, r.Close())
		}
	}
	m.c.report.Left = m.left
	if err != nil || m.left > 0 || !m.c.o.Heal || m.c.o.DryRun {
		return err
	}
	return errors.Join(m.sound(ctx, 0), m.sound(ctx, 1))
}

// sound tells a side that its snapshot was compared in full, and that all is well:
// that ends a state damaged or unverified.
func (m *mender) sound(ctx context.Context, side int) error {
	s := m.side(side)
	if s.Endpoint.Heals == nil {
		return nil
	}
	_, err := s.Endpoint.Heals.Heal(ctx, s.Dataset, s.Version.VersionID, nil, cairn.HealOptions{Whole: true})
	return err
}

// flush offers what waits to whichever side may have lost it.
func (m *mender) flush(ctx context.Context) error {
	waiting := m.waiting
	m.waiting = nil
	if !m.c.o.Heal {
		m.left += len(waiting)
		return nil
	}
	settled := make([]bool, len(waiting))
	for side := range 2 {
		if err := m.offer(ctx, side, waiting, settled); err != nil {
			return err
		}
	}
	for _, ok := range settled {
		if !ok {
			m.left++
		}
	}
	return nil
}

// offer gives one side what the other can read. A side without the ability is
// passed over; what only it could mend is left.
func (m *mender) offer(ctx context.Context, side int, waiting []suspect, settled []bool) error {
	to := m.side(side)
	if to.Endpoint.Heals == nil {
		return nil
	}
	var patches []cairn.Patch
	var of []int
	for i, s := range waiting {
		if s.bad[1-side] || settled[i] || !s.bad[side] && s.bad[0] != s.bad[1] {
			continue // the other side has nothing to give, or this one nothing to mend
		}
		data := make([]byte, s.length)
		if err := m.read(ctx, 1-side, data, s.offset); err != nil {
			return err
		}
		patches, of = append(patches, cairn.Patch{Offset: s.offset, Data: data}), append(of, i)
	}
	if len(patches) == 0 {
		return nil
	}
	results, err := to.Endpoint.Heals.Heal(ctx, to.Dataset, to.Version.VersionID, patches, cairn.HealOptions{DryRun: m.c.o.DryRun})
	if err != nil {
		return err
	}
	for i, r := range results {
		settled[of[i]] = m.note(side, r) || settled[of[i]]
	}
	return nil
}

// note counts an outcome, and tells whether the sides are equal there now.
func (m *mender) note(side int, r cairn.Mending) bool {
	h := &m.c.report.HealedA
	if side == 1 {
		h = &m.c.report.HealedB
	}
	switch r {
	case cairn.MendedBySum:
		h.BySum++
	case cairn.MendedByGUID:
		h.ByGUID++
	case cairn.MendRefused:
		h.Refused++
		return false
	case cairn.MendDoubtful:
		h.Doubtful++
		return false
	default:
		return false
	}
	return !m.c.o.DryRun
}

func (m *mender) side(n int) Side {
	if n == 0 {
		return m.c.a
	}
	return m.c.b
}

func (m *mender) read(ctx context.Context, side int, p []byte, off int64) error {
	if m.content[side] == nil {
		s := m.side(side)
		if s.Endpoint.Blocks == nil {
			return s.Endpoint.Lacks("blocks", s.Dataset+s.Version.Name)
		}
		r, err := s.Endpoint.Blocks.OpenVersion(ctx, s.Dataset, s.Version.VersionID)
		if err != nil {
			return err
		}
		m.content[side] = r
	}
	return m.content[side].ReadAt(ctx, p, off)
}
