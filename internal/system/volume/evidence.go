package volume

import (
	"fmt"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/mech/kernel"
	"cairn/internal/system/volume/catalog"
)

// The classes of evidence that nothing but the engine wrote to an adopted head,
// as status names them.
const (
	continuityOwn     = "own file of the store"
	continuityBoot    = "B: same boot and device, write counters as at the last stop"
	continuityClean   = "C: clean stop; inode, size and change time as at the last stop"
	continuityHashes  = "compared with the block hash table after foreign writes could not be excluded"
	continuityUnclean = "C: unclean stop; same inode and size, assuming that no other system wrote"
)

// examine looks at an adopted head: whether its size is still enough, and what
// evidence there is that nothing else wrote to it.
func (v *Volume) examine(st *catalog.State, size int64) error {
	if size < st.Head.Size && st.Head.RollingBack == "" {
		return &cairn.Error{Op: "open origin", Subject: st.Store.Origin, Kind: cairn.KindUnverified,
			Err:  fmt.Errorf("it has %d bytes, the volume %d: it shrank while the volume was closed", size, st.Head.Size),
			Hint: "give it back its size, or release the volume and adopt the origin anew"}
	}
	v.unverified = st.Head.Unverified
	id, known, err := blockio.Identify(v.head)
	if err != nil || !known || v.unverified != "" || v.o.Faults.has(FaultBelieveOrigin) {
		return err
	}
	v.continuity, v.unverified = judge(st, id, v.o.Strict)
	return nil
}

// judge gives the class of evidence, or why there is none.
func judge(st *catalog.State, id kernel.Identity, strict bool) (class, unverified string) {
	was := st.Head.Evidence
	switch {
	case !st.Head.Clean && strict:
		return "", "the last stop was not clean, and continuity is strict"
	case !st.Head.Clean:
		return continuityUnclean, ""
	case was == nil:
		return continuityClean, "" // adopted and not written since
	case was.Device != id.Device || was.Inode != id.Inode:
		return "", "the origin is another file or device than at the last stop"
	case was.Size != id.Size:
		return "", fmt.Sprintf("the origin's size changed from %d to %d since the last stop", was.Size, id.Size)
	case id.Block:
		return judgeDevice(was, id)
	case was.Mtime != id.Mtime || was.Ctime != id.Ctime:
		return "", "the origin was changed since the last stop"
	}
	return continuityClean, ""
}

func judgeDevice(was *catalog.Evidence, id kernel.Identity) (class, unverified string) {
	switch {
	case was.Boot != id.Boot && id.Writes != 0:
		return "", "the device was written to before the volume was opened in this boot"
	case was.Boot == id.Boot && (was.DiskSeq != id.DiskSeq || was.Writes != id.Writes):
		return "", "the device was written to since the last stop"
	case was.Boot == id.Boot:
		return continuityBoot, ""
	}
	return continuityClean, ""
}

// evidence is what the head looks like now, for the next opening; nil for a head
// of our own.
func (v *Volume) evidence() (*catalog.Evidence, error) {
	if v.state().Store.Origin == "" {
		return nil, nil
	}
	id, known, err := blockio.Identify(v.head)
	if err != nil || !known {
		return nil, err
	}
	return &catalog.Evidence{Device: id.Device, Inode: id.Inode, Size: id.Size, Mtime: id.Mtime, Ctime: id.Ctime,
		Boot: id.Boot, DiskSeq: id.DiskSeq, Writes: id.Writes}, nil
}

// Continuity names the evidence that nothing but the engine wrote to the head
// since the last stop.
func (v *Volume) Continuity() string {
	if v.state().Store.Origin == "" {
		return continuityOwn
	}
	if why := v.doubt(); why != "" {
		return cairn.StateUnverified.String() + ": " + why
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.continuity
}
