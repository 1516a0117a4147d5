package blocks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"cairn"
)

const tagSize = 16

// section is the running hash: of the content since the last point, and through
// the digest it began with of everything before. In layout 2 it takes each record's
// content by its tag, which costs a fifth of hashing it.
type section struct {
	hash    hash.Hash
	tags    cipher.AEAD // nil in layout 1: the content itself is hashed
	nonce   [12]byte
	scratch [17 + tagSize]byte
}

// newSection is the section of a stream of h in the layout. KindUnsupported where
// the Go runtime allows no GCM with a nonce of ours (GODEBUG=fips140=only).
func newSection(h Header, layout uint32) (*section, error) {
	s := &section{hash: sha256.New()}
	if layout == 1 {
		return s, nil
	}
	start := startPoint(h, layout)
	key, err := aes.NewCipher(start.chain[:16])
	if err == nil {
		s.tags, err = cipher.NewGCM(key)
	}
	if err != nil {
		return nil, &cairn.Error{Op: "check blocks stream", Subject: h.To.Name, Kind: cairn.KindUnsupported, Err: err, Hint: "run cairn without GODEBUG=fips140=only"}
	}
	return s, nil
}

func (s *section) begin(p *Point) {
	s.hash.Reset()
	_, _ = s.hash.Write(p.chain[:]) // a hash never fails
}

func (s *section) extent(k Kind, off, length int64, data []byte) {
	b := s.scratch[:17]
	b[0] = byte(k)
	binary.LittleEndian.PutUint64(b[1:], uint64(off))
	binary.LittleEndian.PutUint64(b[9:], uint64(length))
	if s.tags != nil && len(data) > 0 {
		b = s.tags.Seal(b, s.nonce[:], nil, data)
		data = nil
	}
	_, _ = s.hash.Write(b)
	_, _ = s.hash.Write(data)
}

func (s *section) close(p *Point) { s.hash.Sum(p.chain[:0]) }
