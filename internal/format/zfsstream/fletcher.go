package zfsstream

import "encoding/binary"

// fletcher is the running Fletcher-4 sum over 32-bit words: four sums, each of the
// one before.
type fletcher struct{ a, b, c, d uint64 }

// add adds p, whose length is a multiple of four, in the stream's byte order.
func (f *fletcher) add(p []byte, big bool) {
	if big {
		f.addBig(p)
		return
	}
	a, b, c, d := f.a, f.b, f.c, f.d
	for len(p) >= 16 {
		lo, hi := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		a += lo & 0xffffffff
		b += a
		c += b
		d += c
		a += lo >> 32
		b += a
		c += b
		d += c
		a += hi & 0xffffffff
		b += a
		c += b
		d += c
		a += hi >> 32
		b += a
		c += b
		d += c
		p = p[16:]
	}
	for len(p) >= 4 {
		a += uint64(binary.LittleEndian.Uint32(p))
		b += a
		c += b
		d += c
		p = p[4:]
	}
	f.a, f.b, f.c, f.d = a, b, c, d
}

func (f *fletcher) addBig(p []byte) {
	for len(p) >= 4 {
		f.a += uint64(binary.BigEndian.Uint32(p))
		f.b += f.a
		f.c += f.b
		f.d += f.c
		p = p[4:]
	}
}

// parseFletcher reads the sum as a record holds it.
func parseFletcher(o binary.ByteOrder, p []byte) fletcher {
	return fletcher{o.Uint64(p), o.Uint64(p[8:]), o.Uint64(p[16:]), o.Uint64(p[24:])}
}

// put writes the sum as a little-endian sender does.
func (f fletcher) put(p []byte) {
	for i, v := range [4]uint64{f.a, f.b, f.c, f.d} {
		binary.LittleEndian.PutUint64(p[8*i:], v)
	}
}

func (f fletcher) isZero() bool { return f == fletcher{} }
