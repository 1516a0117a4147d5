package tape

import (
	"context"
	"fmt"
	"sync"

	"cairn"
	"cairn/internal/system/tape/drive"
)

// mover lets several goroutines use a drive in turns, record by record: each says
// where, and the drive is moved only when it does not stand there.
type mover struct {
	mu    sync.Mutex // guards the drive's position
	drive drive.Drive
	at    drive.Position
	known bool // at is where the drive stands
}

// forget says that the drive was moved by somebody else.
func (m *mover) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = false
}

// move goes to a position; the caller holds mu and sets known again when what it
// does there went well.
func (m *mover) move(ctx context.Context, to drive.Position) error {
	there := m.known && m.at == to
	m.known = false
	if there {
		return nil
	}
	return m.drive.Locate(ctx, to)
}

func (m *mover) write(ctx context.Context, at drive.Position, record []byte) (drive.Warning, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.move(ctx, at); err != nil {
		return 0, err
	}
	warning, err := m.drive.Write(ctx, record)
	if err != nil {
		return warning, err
	}
	m.at, m.known = drive.Position{Partition: at.Partition, Block: at.Block + 1}, true
	return warning, nil
}

// filemark writes one; one that waits for the medium also makes sure that the
// drive counted as we did, since the index says where it stands.
func (m *mover) filemark(ctx context.Context, at drive.Position, immediate bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.move(ctx, at); err != nil {
		return err
	}
	if err := m.drive.WriteFilemarks(ctx, 1, immediate); err != nil {
		return err
	}
	m.at = drive.Position{Partition: at.Partition, Block: at.Block + 1}
	if !immediate {
		stands, err := m.drive.Position(ctx)
		if err != nil {
			return err
		}
		if stands != m.at {
			return &cairn.Error{Op: "write filemark to tape", Kind: cairn.KindConflict,
				Err:  fmt.Errorf("the drive stands at %v, it ought to stand at %v", stands, m.at),
				Hint: "was the medium changed, or does another program use the drive?"}
		}
	}
	m.known = true
	return nil
}

// flush waits until what was written is on the medium.
func (m *mover) flush(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drive.WriteFilemarks(ctx, 0, false)
}

func (m *mover) read(ctx context.Context, at drive.Position, p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.move(ctx, at); err != nil {
		return 0, err
	}
	n, err := m.drive.Read(ctx, p)
	if err != nil {
		return 0, err
	}
	m.at, m.known = drive.Position{Partition: at.Partition, Block: at.Block + 1}, true
	return n, nil
}

func (m *mover) seekEnd(ctx context.Context, part int) (drive.Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = false
	end, err := m.drive.SeekEnd(ctx, part)
	if err == nil {
		m.at, m.known = end, true
	}
	return end, err
}

func (m *mover) capacity(ctx context.Context, part int) (drive.Capacity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drive.Capacity(ctx, part)
}
