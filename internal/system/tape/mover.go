package tape

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cairn"
	"cairn/internal/system/tape/drive"
)

// stallLimit is how long one call of a drive may take. It is longer than the
// longest time that the drives themselves give a command that a mount uses
// (LOCATE, READ and WRITE: 49 minutes; see docs/guide/tape-mount.md).
const stallLimit = time.Hour

// mover lets several goroutines use a drive in turns, record by record: each says
// where, and the drive is moved only when it does not stand there. A call that does
// not return within the limit is reported, and its caller let go; until it returns
// nobody else gets the drive.
type mover struct {
	drive drive.Drive
	limit time.Duration // 0: stallLimit

	mu    sync.Mutex      // guards what follows
	turns []chan struct{} // who waits for the drive, in order; closed when it is theirs or the drive is stuck
	busy  bool
	begun time.Time // of the call under way
	stuck error     // a call does not return
	worn  [2]bool   // by partition: the medium said that it cannot be written there any more

	at    drive.Position // where the drive stands; who has the drive uses it
	known bool           // at is where the drive stands; as above
}

// do has the drive for one call.
func (m *mover) do(name string, call func() error) error {
	if err := m.take(); err != nil {
		return err
	}
	limit := m.limit
	if limit == 0 {
		limit = stallLimit
	}
	begun := time.Now()
	done := make(chan error, 1)
	go func() { // ends with the call, which gives the drive back
		err := call()
		m.give()
		done <- err
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	return m.abandon(&cairn.Error{Op: name + " tape", Kind: cairn.KindStuck, Err: fmt.Errorf("the drive has not answered since %s (limit %v)", begun.UTC().Format(time.RFC3339), limit),
		Hint: "look at the drive; what is not on tape is kept in memory and written when it answers"})
}

// take waits for the drive.
func (m *mover) take() error {
	m.mu.Lock()
	if m.stuck != nil || !m.busy {
		err := m.stuck
		if err == nil {
			m.begun = time.Now()
		}
		m.busy = true
		m.mu.Unlock()
		return err
	}
	turn := make(chan struct{})
	m.turns = append(m.turns, turn)
	m.mu.Unlock()
	<-turn
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck
}

// give hands the drive to who waits longest.
func (m *mover) give() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stuck, m.busy = nil, len(m.turns) > 0
	if m.busy {
		m.begun = time.Now()
		close(m.turns[0])
		m.turns = m.turns[1:]
	}
}

// abandon lets everybody go who waits for the drive, and refuses all others, until
// the call returns.
func (m *mover) abandon(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.busy { // it returned just now
		return err
	}
	m.stuck = err
	for _, turn := range m.turns {
		close(turn)
	}
	m.turns = nil
	return err
}

// hung is the call that does not return, nil when there is none.
func (m *mover) hung() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck
}

// since is when the call under way began, zero when there is none.
func (m *mover) since() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.busy {
		return time.Time{}
	}
	return m.begun
}

// noteWear remembers where the medium cannot be written any more.
func (m *mover) noteWear(part int, err error) {
	if errors.Is(err, drive.ErrUnwritable) && part < len(m.worn) {
		m.mu.Lock()
		m.worn[part] = true
		m.mu.Unlock()
	}
}

// wearOf reports whether a partition cannot be written any more.
func (m *mover) wearOf(part int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.worn[part]
}

// forget says that the drive was moved by somebody else.
func (m *mover) forget() {
	_ = m.do("use", func() error {
		m.known = false
		return nil
	})
}

// move goes to a position; the caller has the drive, and sets known again when
// what it does there went well.
func (m *mover) move(ctx context.Context, to drive.Position) error {
	there := m.known && m.at == to
	m.known = false
	if there {
		return nil
	}
	return m.drive.Locate(ctx, to)
}

func (m *mover) passed(at drive.Position) {
	m.at, m.known = drive.Position{Partition: at.Partition, Block: at.Block + 1}, true
}

// write writes a record. After KindStuck it is not to be changed: the drive may
// still read it.
func (m *mover) write(ctx context.Context, at drive.Position, record []byte) (drive.Warning, error) {
	return query(m, "write to", func() (drive.Warning, error) {
		if err := m.move(ctx, at); err != nil {
			return 0, err
		}
		w, err := m.drive.Write(ctx, record)
		if err == nil {
			m.passed(at)
		}
		m.noteWear(at.Partition, err)
		return w, err
	})
}

// filemark writes one; one that waits for the medium also makes sure that the
// drive counted as we did, since the index says where it stands.
func (m *mover) filemark(ctx context.Context, at drive.Position, immediate bool) error {
	return m.do("write filemark to", func() error {
		if err := m.move(ctx, at); err != nil {
			return err
		}
		if err := m.drive.WriteFilemarks(ctx, 1, immediate); err != nil {
			m.noteWear(at.Partition, err)
			return err
		}
		m.passed(at)
		if immediate {
			return nil
		}
		stands, err := m.drive.Position(ctx)
		if err == nil && stands != m.at {
			err = &cairn.Error{Op: "write filemark to tape", Kind: cairn.KindConflict,
				Err:  fmt.Errorf("the drive stands at %v, it ought to stand at %v", stands, m.at),
				Hint: "was the medium changed, or does another program use the drive?"}
		}
		m.known = err == nil
		return err
	})
}

// flush waits until what was written is on the medium.
func (m *mover) flush(ctx context.Context) error {
	return m.do("flush", func() error {
		err := m.drive.WriteFilemarks(ctx, 0, false)
		m.noteWear(m.at.Partition, err)
		return err
	})
}

// read reads a record. After KindStuck p is not to be used again: the drive may
// still write into it.
func (m *mover) read(ctx context.Context, at drive.Position, p []byte) (int, error) {
	return query(m, "read", func() (int, error) {
		if err := m.move(ctx, at); err != nil {
			return 0, err
		}
		n, err := m.drive.Read(ctx, p)
		if err == nil {
			m.passed(at)
		}
		return n, err
	})
}

func (m *mover) seekEnd(ctx context.Context, part int) (drive.Position, error) {
	return query(m, "find the end of", func() (drive.Position, error) {
		m.known = false
		end, err := m.drive.SeekEnd(ctx, part)
		if err == nil {
			m.at, m.known = end, true
		}
		return end, err
	})
}

func (m *mover) capacity(ctx context.Context, part int) (drive.Capacity, error) {
	return query(m, "measure", func() (drive.Capacity, error) { return m.drive.Capacity(ctx, part) })
}

func (m *mover) attribute(ctx context.Context, part int, id uint16) ([]byte, error) {
	return query(m, "read attribute of", func() ([]byte, error) { return m.drive.Attribute(ctx, part, id) })
}

func (m *mover) setAttribute(ctx context.Context, part int, id uint16, format byte, value []byte) error {
	return m.do("write attribute of", func() error { return m.drive.SetAttribute(ctx, part, id, format, value) })
}

// query is do for a call with an answer, which is the zero value after KindStuck.
func query[T any](m *mover, name string, call func() (T, error)) (T, error) {
	answer := make(chan T, 1)
	err := m.do(name, func() error {
		got, err := call()
		answer <- got
		return err
	})
	if cairn.KindOf(err) == cairn.KindStuck {
		var none T
		return none, err
	}
	return <-answer, err
}
