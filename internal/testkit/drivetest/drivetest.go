// Package drivetest runs one random script on any tape drive and tells every
// answer, so that a test can hold drives against each other.
//
// It promises that equal drives give equal answers for equal seeds. It needs a
// medium of two partitions. What goes wrong is an answer, too.
package drivetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"cairn"
	"cairn/internal/system/tape/drive"
)

// Attributes begin the answers about medium attributes, which not every drive has.
const Attributes = "attribute "

// Script does steps things to a drive and returns an answer for each, with the
// position behind it.
func Script(ctx context.Context, d drive.Drive, seed uint64, steps int) []string {
	s := &script{ctx: ctx, d: d, rng: rand.New(rand.NewPCG(seed, 1)), buf: make([]byte, 1000)}
	for range steps {
		s.step()
	}
	return s.answers
}

type script struct {
	ctx     context.Context
	d       drive.Drive
	rng     *rand.Rand
	buf     []byte
	answers []string
}

func (s *script) say(what string, err error) {
	word := "ok"
	switch {
	case errors.Is(err, drive.ErrFilemark):
		word = "filemark"
	case errors.Is(err, drive.ErrEndOfData):
		word = "end"
	case err != nil:
		word = cairn.KindOf(err).String()
	}
	at, _ := s.d.Position(s.ctx) // after an error it may be unknown, and is then zero for each drive
	s.answers = append(s.answers, fmt.Sprintf("%s: %s at %v", what, word, at))
}

func (s *script) step() {
	switch s.rng.IntN(8) {
	case 0, 1:
		_, err := s.d.Write(s.ctx, bytes.Repeat([]byte{'x'}, 1+s.rng.IntN(500)))
		s.say("write", err)
	case 2:
		s.say("filemark", s.d.WriteFilemarks(s.ctx, 1+s.rng.IntN(2), s.rng.IntN(2) == 0))
	case 3:
		n, err := s.d.Read(s.ctx, s.buf)
		s.say("read "+string(s.buf[:n]), err)
	case 4:
		s.say("locate", s.d.Locate(s.ctx, drive.Position{Partition: s.rng.IntN(3), Block: s.rng.Uint64N(12)}))
	case 5:
		s.say("space", s.d.SpaceFilemarks(s.ctx, s.rng.IntN(7)-3))
	case 6:
		_, err := s.d.SeekEnd(s.ctx, s.rng.IntN(2))
		s.say("end", err)
	case 7:
		err := s.d.SetAttribute(s.ctx, 0, 0x1623, 0, []byte{byte(s.rng.IntN(256))})
		s.say(Attributes+"set", err)
		v, err := s.d.Attribute(s.ctx, 0, 0x1623)
		s.say(fmt.Sprintf("%sis %x", Attributes, v), err)
	}
}
