package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"cairn/internal/front/nbd/nbdclient"
)

var le = binary.LittleEndian

const (
	burst = 30                     // writes between pauses
	pause = 100 * time.Millisecond // so about 300 writes a second
)

// writer rewrites random blocks of the known file through NBD, one after the
// other, and remembers every write.
type writer struct {
	client *nbdclient.Client
	blocks []int64 // offset on the disk of each block of the known file

	mu    sync.Mutex // guards what follows
	log   []uint32   // place of write number i+1
	acked uint32     // writes that were answered

	cancel context.CancelFunc
	ended  chan struct{}
	err    error // set before ended is closed
}

func startWriter(ctx context.Context, socket, export string, blocks []int64) (*writer, error) {
	c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: socket, Export: export})
	if err != nil {
		return nil, err
	}
	w := &writer{client: c, blocks: blocks, ended: make(chan struct{})}
	ctx, w.cancel = context.WithCancel(ctx)
	go func() {
		defer close(w.ended)
		w.err = w.run(ctx)
	}()
	return w, nil
}

func (w *writer) run(ctx context.Context) error {
	b := make([]byte, blockSize)
	for n := 1; ctx.Err() == nil; n++ {
		if err := w.one(b); err != nil {
			return err
		}
		if n%burst > 0 {
			continue
		}
		if err := w.client.Flush(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// one writes the next block. It is not given up half way: the log would not know
// whether it happened.
func (w *writer) one(b []byte) error {
	index := rand.Uint32N(uint32(len(w.blocks)))
	w.mu.Lock()
	w.log = append(w.log, index)
	seq := uint32(len(w.log))
	w.mu.Unlock()
	fill(b, seq, index)
	if err := w.client.WriteAt(context.Background(), b, w.blocks[index], false); err != nil {
		return fmt.Errorf("the writer's write %d: %w", seq, err)
	}
	w.mu.Lock()
	w.acked = seq
	w.mu.Unlock()
	return nil
}

// writes is the number of writes answered so far.
func (w *writer) writes() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

// stop ends the writer after a last flush and returns its log.
func (w *writer) stop() ([]uint32, error) {
	w.cancel()
	<-w.ended
	err := errors.Join(w.err, w.client.Flush(context.Background()), w.client.Close())
	return w.log, err
}

// instant checks that the content of the known file is what it was at one instant
// between two writes, and returns the number of writes made by then. log is the
// places of all writes in order.
func instant(known []byte, log []uint32) (cut uint32, err error) {
	blocks := uint32(len(known) / blockSize)
	for i := range blocks {
		cut = max(cut, le.Uint32(known[i*blockSize:]))
	}
	if int64(cut) > int64(len(log)) {
		return 0, fmt.Errorf("it names write %d of %d", cut, len(log))
	}
	last := make([]uint32, blocks)
	for i, index := range log[:cut] {
		last[index] = uint32(i) + 1
	}
	want := make([]byte, blockSize)
	for i := range blocks {
		fill(want, last[i], i)
		got := known[i*blockSize : (i+1)*blockSize]
		if !bytes.Equal(got, want) {
			return 0, fmt.Errorf("block %d is from write %d, and at write %d was from %d", i, le.Uint32(got), cut, last[i])
		}
	}
	return cut, nil
}

// readKnown reads the known file's blocks through NBD.
func readKnown(ctx context.Context, socket, export string, blocks []int64) ([]byte, error) {
	c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: socket, Export: export})
	if err != nil {
		return nil, err
	}
	known := make([]byte, len(blocks)*blockSize)
	for i := 0; i < len(blocks); {
		n := 1 // neighbours on the disk are read together
		for n < 256 && i+n < len(blocks) && blocks[i+n] == blocks[i]+int64(n*blockSize) {
			n++
		}
		if err := c.ReadAt(ctx, known[i*blockSize:(i+n)*blockSize], blocks[i]); err != nil {
			c.Abandon()
			return nil, err
		}
		i += n
	}
	return known, c.Close()
}
