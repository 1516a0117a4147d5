package hashes

import (
	"encoding/binary"
	"hash/crc32"
)

// The layout of docs/formats/volume.md, "hash-N".
const (
	blockSize   = 4096
	pageSize    = 4096
	headerBytes = 64
	perPage     = (pageSize - headerBytes) / 8 // blocks of a group: those whose entries one page holds
	perMap      = (pageSize - headerBytes) * 8 // groups whose bits one page holds
	magicHashes = 0x31544843                   // "CHT1"
	magicZeroes = 0x315a4843                   // "CHZ1"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Identity is what the checksum of every page covers.
type Identity struct {
	Store uint64
	Table uint64 // number of its file
}

// page is one page of the file: the entries of a group, or the bits of groups that
// are all zeroes. Its number is its place in the file.
type page struct {
	number uint64
	magic  uint32
	stamp  uint64 // of the update that wrote it
	body   [pageSize - headerBytes]byte
}

// pageOf is the page of a group's entries, mapOf that of its bit, and which bit it
// is. A page of bits stands before the pages of its groups.
func pageOf(group uint64) uint64           { return group/perMap*(perMap+1) + 1 + group%perMap }
func mapOf(group uint64) (no, bit uint64)  { return group / perMap * (perMap + 1), group % perMap }
func groupOf(block uint64) (group, at int) { return int(block / perPage), int(block % perPage) }

func (p *page) entry(at int) Entry {
	return Entry(binary.LittleEndian.Uint64(p.body[8*at:]))
}

func (p *page) setEntry(at int, e Entry) {
	binary.LittleEndian.PutUint64(p.body[8*at:], uint64(e))
}

func (p *page) bit(n uint64) bool { return p.body[n/8]>>(n%8)&1 != 0 }

func (p *page) setBit(n uint64, on bool) {
	p.body[n/8] &^= 1 << (n % 8)
	if on {
		p.body[n/8] |= 1 << (n % 8)
	}
}

func (p *page) encode(id Identity, buf []byte) {
	clear(buf[:headerBytes])
	le := binary.LittleEndian
	le.PutUint32(buf, p.magic)
	le.PutUint64(buf[8:], id.Store)
	le.PutUint64(buf[16:], id.Table)
	le.PutUint64(buf[24:], p.number)
	le.PutUint64(buf[32:], p.stamp)
	copy(buf[headerBytes:], p.body[:])
	le.PutUint32(buf[4:], crc32.Checksum(buf[8:pageSize], castagnoli))
}

// decode reads what stands in the place of a page; false when that is no good page
// of this table.
func decode(id Identity, number uint64, magic uint32, buf []byte) (*page, bool) {
	le := binary.LittleEndian
	good := le.Uint32(buf) == magic && le.Uint32(buf[4:]) == crc32.Checksum(buf[8:pageSize], castagnoli) &&
		le.Uint64(buf[8:]) == id.Store && le.Uint64(buf[16:]) == id.Table && le.Uint64(buf[24:]) == number
	p := &page{number: number, magic: magic}
	if !good {
		return p, false
	}
	p.stamp = le.Uint64(buf[32:])
	copy(p.body[:], buf[headerBytes:])
	return p, true
}
