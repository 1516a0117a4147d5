package drive

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"cairn"
)

// parseRecordName takes "0_17_R" apart.
func parseRecordName(name string) (part int, block uint64, k kind, ok bool) {
	fields := strings.Split(name, "_")
	if len(fields) != 3 || len(fields[2]) != 1 || fields[0] != "0" && fields[0] != "1" {
		return 0, 0, 0, false
	}
	k = kind(fields[2][0])
	block, err := strconv.ParseUint(fields[1], 10, 63)
	if err != nil || fields[1] != strconv.FormatUint(block, 10) || k != record && k != filemark && k != end {
		return 0, 0, 0, false
	}
	return int(fields[0][0] - '0'), block, k, true
}

// names lists the folder, in no order.
func (f *Folder) names() ([]string, error) {
	d, err := os.Open(f.dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}

func (f *Folder) load() error {
	names, err := f.names()
	if err != nil {
		return ioError("load tape folder", f.dir, err)
	}
	found := [2]map[uint64]kind{{}, {}}
	ends := [2]uint64{}
	ended := [2]bool{}
	for _, name := range names {
		part, block, k, ok := parseRecordName(name)
		switch {
		case !ok:
		case k == end:
			if ended[part] {
				return f.damaged("partition %d has two ends of data", part)
			}
			ended[part], ends[part] = true, block
		default:
			if _, twice := found[part][block]; twice {
				return f.damaged("block %d of partition %d is both a record and a filemark", block, part)
			}
			found[part][block] = k
		}
	}
	if len(found[0])+len(found[1]) == 0 && !ended[0] && !ended[1] {
		return &cairn.Error{Op: "load tape folder", Subject: f.dir, Kind: cairn.KindNotFound, Err: errors.New("the folder holds no records"),
			Hint: "name a folder that a tape tool made, or format this one"}
	}
	f.parts = nil
	for part := range 2 {
		if part == 1 && len(found[1]) == 0 && !ended[1] {
			break
		}
		p, err := f.assemble(part, found[part], ended[part], ends[part])
		if err != nil {
			return err
		}
		f.parts = append(f.parts, p)
	}
	return nil
}

func (f *Folder) damaged(format string, args ...any) error {
	return &cairn.Error{Op: "load tape folder", Subject: f.dir, Kind: cairn.KindDamaged, Err: fmt.Errorf(format, args...)}
}

// assemble checks that blocks are dense and builds the partition. Without an end
// mark the partition ends behind its last dense block, and ended stays false; one
// without anything at all ends at its beginning, as other tools take it.
func (f *Folder) assemble(part int, found map[uint64]kind, ended bool, at uint64) (partition, error) {
	p := partition{ended: ended || len(found) == 0, kinds: make([]kind, 0, len(found))}
	for !ended || uint64(len(p.kinds)) < at {
		k, there := found[uint64(len(p.kinds))]
		if !there {
			break
		}
		if k == filemark {
			p.filemarks = append(p.filemarks, uint64(len(p.kinds)))
		}
		p.kinds = append(p.kinds, k)
	}
	if ended && uint64(len(p.kinds)) != at {
		return p, f.damaged("partition %d lacks block %d, before its end at %d", part, len(p.kinds), at)
	}
	if len(found) > len(p.kinds) {
		for block, k := range found {
			if block >= uint64(len(p.kinds)) {
				f.stale = append(f.stale, f.name(part, block, k))
			}
		}
	}
	return p, nil
}

// measure adds up the sizes of a partition's records, once they are asked for: a
// size costs a system call.
func (f *Folder) measure(part int) error {
	p := &f.parts[part]
	if p.measured {
		return nil
	}
	var sum int64
	for b, k := range p.kinds {
		if k != record {
			continue
		}
		info, err := os.Stat(f.name(part, uint64(b), record))
		if err != nil {
			return ioError("measure tape folder", f.dir, err)
		}
		sum += info.Size()
	}
	p.used, p.measured = sum, true
	return nil
}
