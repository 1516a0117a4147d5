package drive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cairn"
	"cairn/ltfs"
)

// An attribute is a file "attr_PARTITION_ID" (the id in hex without leading
// zeroes) with the raw item of a READ ATTRIBUTE answer: id, format, length, value.
const attributeHead = 5

func (f *Folder) attributeFile(part int, id uint16) string {
	return fmt.Sprintf("attr_%d_%x", part, id)
}

// Attribute reads a medium attribute.
func (f *Folder) Attribute(_ context.Context, part int, id uint16) ([]byte, error) {
	name := filepath.Join(f.dir, f.attributeFile(part, id))
	item, err := os.ReadFile(name)
	if err != nil {
		return nil, ioError("read tape attribute", name, err)
	}
	// Some tools store several items in one file: ours is looked up in it.
	for len(item) >= attributeHead {
		n := int(binary.BigEndian.Uint16(item[3:]))
		if len(item) < attributeHead+n {
			break
		}
		if binary.BigEndian.Uint16(item) == id {
			return item[attributeHead : attributeHead+n], nil
		}
		item = item[attributeHead+n:]
	}
	return nil, &cairn.Error{Op: "read tape attribute", Subject: name, Kind: cairn.KindCorrupt, Err: errors.New("it does not hold the item its name says")}
}

// SetAttribute writes a medium attribute, durable when it returns.
func (f *Folder) SetAttribute(_ context.Context, part int, id uint16, format byte, value []byte) error {
	if err := f.mayWrite("write tape attribute"); err != nil {
		return err
	}
	if len(value) > 1<<16-1 {
		return &cairn.Error{Op: "write tape attribute", Subject: f.dir, Kind: cairn.KindInvalid, Err: fmt.Errorf("%d bytes", len(value))}
	}
	item := binary.BigEndian.AppendUint16(nil, id)
	item = append(item, format)
	item = binary.BigEndian.AppendUint16(item, uint16(len(value)))
	name := filepath.Join(f.dir, f.attributeFile(part, id))
	if err := replaceFile(name, append(item, value...)); err != nil {
		return ioError("write tape attribute", name, err)
	}
	return f.sync()
}

// replaceFile writes a file beside and renames it, so that a cut of power leaves
// the old or the new value.
func replaceFile(name string, data []byte) error {
	file, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// raiseChangeReference counts a loading in which something was written.
func (f *Folder) raiseChangeReference() error {
	ctx := context.Background()
	var count uint32
	v, err := f.Attribute(ctx, 0, ltfs.AttrVolumeChangeReference)
	switch {
	case err == nil && len(v) == 4:
		count = binary.BigEndian.Uint32(v)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return f.SetAttribute(ctx, 0, ltfs.AttrVolumeChangeReference, 0, binary.BigEndian.AppendUint32(nil, count+1))
}
