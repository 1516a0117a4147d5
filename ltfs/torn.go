package ltfs

import "io"

// ReadTornIndex reads as much as there is of a full index that was cut off or
// damaged: what comes before the tear is kept, each file whole or not at all, each
// directory with the part of its children that is there. lost says what ended the
// reading, nil when the index is whole. It fails when not even the volume, the
// generation and the beginning of the tree can be read.
//
// A torn index says nothing about what is not in it: a name that is missing may
// stand behind the tear.
func ReadTornIndex(r io.Reader) (ix *Index, lost error, err error) {
	d := &decoder{scanner: newScanner("index", r), names: map[string]string{}, torn: true}
	if err := d.root("ltfsindex"); err != nil {
		return nil, nil, err
	}
	ix = &Index{}
	if lost = d.index(ix); lost == nil {
		lost = d.finish()
	}
	if ix.VolumeUUID == "" || ix.Generation == 0 || ix.Self.IsZero() || ix.Root == nil {
		return nil, nil, lost
	}
	return ix, lost, nil
}
