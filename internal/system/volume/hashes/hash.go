package hashes

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
)

// Entry is what a table knows of a block: nothing, that it is all zeroes, or its
// hash.
type Entry uint64

// The entries that are no hashes.
const (
	Unknown Entry = 0
	Zero    Entry = 1
)

// KeyBytes is the length of a key: one half for each step of a hash.
const KeyBytes = 32

// NewKey makes the key of a table.
func NewKey() []byte {
	key := make([]byte, KeyBytes)
	_, _ = rand.Read(key) // never fails
	return key
}

// Hasher hashes blocks under a key. It serves one goroutine at a time.
type Hasher struct {
	sum    cipher.AEAD
	seal   cipher.Block
	nonce  [12]byte
	tag    [16]byte
	padded [blockSize]byte
}

// NewHasher makes a hasher of a key of KeyBytes.
func NewHasher(key []byte) (*Hasher, error) {
	first, err := aes.NewCipher(key[:KeyBytes/2])
	if err != nil {
		return nil, err
	}
	h := &Hasher{}
	if h.sum, err = cipher.NewGCM(first); err != nil {
		return nil, err
	}
	h.seal, err = aes.NewCipher(key[KeyBytes/2:])
	return h, err
}

var zeroBlock [blockSize]byte

// Entry is that of a block's content; a short last block counts as padded with
// zeroes. Any two contents have the same hash with a chance of 2^-64, and nobody
// without the key can find a pair.
func (h *Hasher) Entry(p []byte) Entry {
	if string(p) == string(zeroBlock[:len(p)]) {
		return Zero
	}
	if len(p) < blockSize {
		clear(h.padded[copy(h.padded[:], p):])
		p = h.padded[:]
	}
	// The tag of GCM without plaintext is a polynomial of the content; encrypted
	// once more it is as good as random, though the nonce is always the same.
	tag := h.sum.Seal(h.tag[:0], h.nonce[:], nil, p)
	h.seal.Encrypt(tag, tag)
	if e := Entry(binary.LittleEndian.Uint64(tag)); e > Zero {
		return e
	}
	return Zero + 1
}
