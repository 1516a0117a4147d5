package fakedisk

const (
	pageSize   = 4096
	sectorSize = 512
	chunkPages = 512
)

// owner marks what a content may change in place; everything else is shared with
// clones and copied first.
type owner struct{ _ byte }

type page struct {
	owner *owner
	b     [pageSize]byte
}

type chunk struct {
	owner *owner
	pages [chunkPages]*page
}

// content is the bytes of a file: sparse, and cheap to clone. A missing page reads
// as zeroes and takes no room. Bytes past size are zero.
type content struct {
	owner  *owner
	chunks []*chunk
	pages  int64 // that exist
	size   int64
}

// clone makes a copy; each side copies what it changes from now on.
func (c *content) clone() *content {
	c.owner = nil // what exists is shared from now on
	return &content{chunks: append([]*chunk(nil), c.chunks...), pages: c.pages, size: c.size}
}

// at returns the page with that number, nil when there is none.
func (c *content) at(n int64) *page {
	if i := n / chunkPages; i < int64(len(c.chunks)) && c.chunks[i] != nil {
		return c.chunks[i].pages[n%chunkPages]
	}
	return nil
}

// cell returns where the page is kept, in a chunk that is c's own.
func (c *content) cell(n int64) **page {
	if c.owner == nil {
		c.owner = new(owner)
	}
	i := n / chunkPages
	for int64(len(c.chunks)) <= i {
		c.chunks = append(c.chunks, nil)
	}
	ch := c.chunks[i]
	switch {
	case ch == nil:
		ch = &chunk{owner: c.owner}
	case ch.owner != c.owner:
		ch = &chunk{owner: c.owner, pages: ch.pages}
	}
	c.chunks[i] = ch
	return &ch.pages[n%chunkPages]
}

// own returns the page for writing, making it when needed.
func (c *content) own(n int64) *page {
	cell := c.cell(n)
	switch {
	case *cell == nil:
		*cell = &page{owner: c.owner}
		c.pages++
	case (*cell).owner != c.owner:
		*cell = &page{owner: c.owner, b: (*cell).b}
	}
	return *cell
}

// blank is every page that was allocated and not written; it is nobody's own.
var blank = new(page)

// reserve takes room for a page.
func (c *content) reserve(n int64) {
	if c.at(n) == nil {
		*c.cell(n) = blank
		c.pages++
	}
}

// free gives a page's room back.
func (c *content) free(n int64) {
	if c.at(n) != nil {
		*c.cell(n) = nil
		c.pages--
	}
}

// missing counts the pages of a range that would have to be made.
func (c *content) missing(off, length int64) (n int64) {
	for i := off / pageSize; i*pageSize < off+length; i++ {
		if c.at(i) == nil {
			n++
		}
	}
	return n
}

// reach is the end of what can hold pages: behind it are none.
func (c *content) reach() int64 { return int64(len(c.chunks)) * chunkPages * pageSize }

// each calls f for the part of each page that the range covers.
func each(off, length int64, f func(n int64, from, to int)) {
	for end := off + length; off < end; {
		n := off / pageSize
		stop := min(end, (n+1)*pageSize)
		f(n, int(off-n*pageSize), int(stop-n*pageSize))
		off = stop
	}
}

// read fills p; bytes past the size are zero.
func (c *content) read(p []byte, off int64) {
	each(off, int64(len(p)), func(n int64, from, to int) {
		part := p[n*pageSize+int64(from)-off:][:to-from]
		if pg := c.at(n); pg != nil {
			copy(part, pg.b[from:to])
		} else {
			clear(part)
		}
	})
}

// write stores p and grows the size to hold it.
func (c *content) write(p []byte, off int64) {
	each(off, int64(len(p)), func(n int64, from, to int) {
		copy(c.own(n).b[from:to], p[n*pageSize+int64(from)-off:])
	})
	c.size = max(c.size, off+int64(len(p)))
}

// zero clears a range; whole pages give their room back when free is set.
func (c *content) zero(off, length int64, free bool) {
	end := min(off+length, c.reach())
	each(off, end-off, func(n int64, from, to int) {
		switch {
		case c.at(n) == nil:
		case free && from == 0 && to == pageSize:
			c.free(n)
		default:
			clear(c.own(n).b[from:to])
		}
	})
}

// truncate sets the size; what it cuts off is gone.
func (c *content) truncate(size int64) {
	if size < c.size {
		c.zero(size, (c.size+pageSize-1)/pageSize*pageSize-size, true)
	}
	c.size = size
}

// data finds the next page at or after off and the end of its run.
func (c *content) data(off int64) (start, end int64) {
	pages := (c.size + pageSize - 1) / pageSize
	n := off / pageSize
	for n < pages && c.at(n) == nil {
		n++
	}
	if n >= pages {
		return c.size, c.size
	}
	start = max(off, n*pageSize)
	for n < pages && c.at(n) != nil {
		n++
	}
	return start, min(n*pageSize, c.size)
}
