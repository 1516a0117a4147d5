package ltfs

import "encoding/binary"

// Host-type medium attributes (MAM) that LTFS uses, by identifier.
const (
	AttrVolumeChangeReference = 0x0009 // 4 bytes, owned by the drive
	AttrVendor                = 0x0800 // 8, ASCII
	AttrApplicationName       = 0x0801 // 32, ASCII
	AttrApplicationVersion    = 0x0802 // 8, ASCII
	AttrVolumeName            = 0x0803 // 160, text
	AttrTextLocalization      = 0x0805 // 1, 0x81 is UTF-8
	AttrBarcode               = 0x0806 // 32, ASCII
	AttrMediaPool             = 0x0808 // 160, text
	AttrFormatVersion         = 0x080B // 16, ASCII
	AttrCoherency             = 0x080C // 70, one per partition: Coherency
	AttrLock                  = 0x1623 // 1
)

// CoherencyBytes is the length of an encoded Coherency.
const CoherencyBytes = 70

// Coherency is the Volume Coherency Information of a partition: it lets a mount
// trust the index it names without looking for later blocks, as long as the
// medium's Volume Change Reference has not moved since.
type Coherency struct {
	ChangeReference uint64
	Generation      uint64
	Block           uint64 // of that generation's index in this partition
	VolumeUUID      string
	Trusted         bool // false asks every reader for a full check
}

// Append appends the attribute's value.
func (c *Coherency) Append(b []byte) []byte {
	b = append(b, 8)
	b = binary.BigEndian.AppendUint64(b, c.ChangeReference)
	b = binary.BigEndian.AppendUint64(b, c.Generation)
	b = binary.BigEndian.AppendUint64(b, c.Block)
	b = binary.BigEndian.AppendUint16(b, 43)
	b = append(b, "LTFS\x00"...)
	uuid := make([]byte, 37)
	copy(uuid, c.VolumeUUID)
	b = append(b, uuid...)
	if c.Trusted {
		return append(b, 1)
	}
	return append(b, 0)
}

// ParseCoherency reads the attribute's value. An application length of 42, which
// old software wrote, is accepted.
func ParseCoherency(v []byte) (*Coherency, error) {
	const what = "coherency attribute"
	if len(v) < 69 || v[0] != 8 {
		return nil, formatError(what, "has %d bytes or an unknown layout", len(v))
	}
	c := &Coherency{
		ChangeReference: binary.BigEndian.Uint64(v[1:]),
		Generation:      binary.BigEndian.Uint64(v[9:]),
		Block:           binary.BigEndian.Uint64(v[17:]),
	}
	n := int(binary.BigEndian.Uint16(v[25:]))
	if n != 42 && n != 43 || string(v[27:32]) != "LTFS\x00" {
		return nil, formatError(what, "was not written by LTFS")
	}
	c.VolumeUUID = string(v[32:68])
	if !validUUID(c.VolumeUUID) {
		return nil, formatError(what, "volume UUID %q is not a UUID", c.VolumeUUID)
	}
	c.Trusted = v[len(v)-1] == 1
	return c, nil
}
