package zfsstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"cairn"
)

const magic = 0x2F5bacbac

// Header is the BEGIN record of a stream or of one of its substreams.
type Header struct {
	Compound  bool // it stands before substreams: zfs send -R, -I, -p
	BigEndian bool
	Features  Features
	Created   time.Time         // of the snapshot; zero for a compound one
	Kind      cairn.DatasetKind // KindZvol or KindFilesystem; 0 for a compound one
	Clone     bool              // the base is a snapshot of another dataset
	ToGUID    cairn.GUID
	FromGUID  cairn.GUID // zero: a full stream
	ToName    string     // POOL/DATASET@SNAPSHOT at the sender
	Details   List       // properties of a compound stream, keys of a raw one, where a resumed one goes on
}

// Resume is the place that a resumed stream goes on from.
func (h Header) Resume() (object, offset uint64, resumed bool) {
	object, isObject := Lookup[uint64](h.Details, "resume_object")
	offset, isOffset := Lookup[uint64](h.Details, "resume_offset")
	return object, offset, isObject && isOffset && h.Features&FeatureResuming != 0
}

// Snapshot is the version the stream carries.
func (h Header) Snapshot() cairn.VersionID {
	_, name, _ := strings.Cut(h.ToName, "@")
	return cairn.VersionID{Name: "@" + name, GUID: h.ToGUID}
}

// Features are the stream's feature flags.
type Features uint64

// The features that OpenZFS has given names to.
const (
	FeatureDedup         Features = 1 << 0
	FeatureDedupProps    Features = 1 << 1
	FeatureSASpill       Features = 1 << 2
	FeatureEmbedded      Features = 1 << 16
	FeatureLZ4           Features = 1 << 17
	FeatureLargeBlocks   Features = 1 << 19
	FeatureResuming      Features = 1 << 20
	FeatureRedacted      Features = 1 << 21
	FeatureCompressed    Features = 1 << 22
	FeatureLargeDnode    Features = 1 << 23
	FeatureRaw           Features = 1 << 24
	FeatureZstd          Features = 1 << 25
	FeatureHolds         Features = 1 << 26
	FeatureSwitchLarge   Features = 1 << 27
	FeatureLongName      Features = 1 << 28
	FeatureLargeMicrozap Features = 1 << 29
)

var featureNames = []struct {
	bit  Features
	name string
}{
	{FeatureDedup, "dedup"}, {FeatureDedupProps, "dedup_props"}, {FeatureSASpill, "sa_spill"}, {FeatureEmbedded, "embedded_data"},
	{FeatureLZ4, "lz4"}, {FeatureLargeBlocks, "large_blocks"}, {FeatureResuming, "resuming"}, {FeatureRedacted, "redacted"},
	{FeatureCompressed, "compressed"}, {FeatureLargeDnode, "large_dnode"}, {FeatureRaw, "raw"}, {FeatureZstd, "zstd"},
	{FeatureHolds, "holds"}, {FeatureSwitchLarge, "switch_to_large_blocks"}, {FeatureLongName, "longname"}, {FeatureLargeMicrozap, "large_microzap"},
}

// Names lists the features, unknown ones as "bit N".
func (f Features) Names() []string {
	names := []string{}
	for _, n := range featureNames {
		if f&n.bit != 0 {
			names = append(names, n.name)
			f &^= n.bit
		}
	}
	for bit := range 62 {
		if f>>bit&1 != 0 {
			names = append(names, fmt.Sprintf("bit %d", bit))
		}
	}
	return names
}

// String is the names, or "none".
func (f Features) String() string {
	if f == 0 {
		return "none"
	}
	return strings.Join(f.Names(), ", ")
}

// unreadable are the features among f that change the layout in ways not known here.
func (f Features) unreadable() Features {
	for _, n := range featureNames {
		f &^= n.bit
	}
	return f
}

// The header's fields, counted from the record's eighth byte.
const (
	nameBytes       = 256
	typeFilesystem  = 2
	typeZvol        = 3
	flagClone       = 1 << 0
	flagFreeRecords = 1 << 2
	flagSpillBlock  = 1 << 3
	substream       = 1
	compound        = 2
)

// parseHeader reads a BEGIN record and the length of its payload.
func parseHeader(b []byte) (Header, uint64, error) {
	o, err := byteOrder(b)
	if err != nil {
		return Header{}, 0, err
	}
	info, name := o.Uint64(b[16:]), b[RecordBytes-nameBytes:]
	h := Header{BigEndian: o == binary.ByteOrder(binary.BigEndian), Compound: info&3 == compound, Features: Features(info >> 2),
		Clone: o.Uint32(b[36:])&flagClone != 0, ToGUID: cairn.GUID(o.Uint64(b[40:])), FromGUID: cairn.GUID(o.Uint64(b[48:]))}
	if seconds := int64(o.Uint64(b[24:])); seconds != 0 {
		h.Created = time.Unix(seconds, 0).UTC()
	}
	end := bytes.IndexByte(name, 0)
	if end < 0 {
		return Header{}, 0, errors.New("the name in the header has no end")
	}
	h.ToName = string(name[:end])
	switch t := o.Uint32(b[32:]); {
	case info&3 != substream && info&3 != compound:
		return Header{}, 0, fmt.Errorf("header type %d", info&3)
	case t == typeFilesystem:
		h.Kind = cairn.KindFilesystem
	case t == typeZvol:
		h.Kind = cairn.KindZvol
	case !h.Compound:
		return Header{}, 0, fmt.Errorf("a stream of dataset type %d", t)
	}
	return h, uint64(o.Uint32(b[4:])), nil
}

// byteOrder is the order in which the header's magic reads right.
func byteOrder(b []byte) (binary.ByteOrder, error) {
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if o.Uint64(b[8:]) == magic && Type(o.Uint32(b)) == TypeBegin {
			return o, nil
		}
	}
	return nil, errors.New("the input is no zfs stream")
}
