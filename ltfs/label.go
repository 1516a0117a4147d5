package ltfs

import (
	"bytes"
	"io"
	"strings"
)

// Sizes of the label construct.
const (
	VOL1Bytes       = 80     // the VOL1 record
	MaxLabelBytes   = 4096   // the XML label, on reading
	MinBlockSize    = 4096   // smallest block size of a volume
	DefaultBlock    = 524288 // block size other LTFS software formats with
	FirstIndexBlock = 5      // the first index of a partition always stands here
)

// Label is the XML label at the start of each partition. The two differ only in
// Location.
type Label struct {
	Version     string
	Creator     string
	FormatTime  Timestamp
	VolumeUUID  string
	Location    byte // the partition this label stands in
	IndexPart   byte // letter of the index partition
	DataPart    byte // letter of the data partition
	BlockSize   uint64
	Compression bool
}

// AppendVOL1 appends the VOL1 record for a barcode of six letters and digits, or
// none.
func AppendVOL1(b []byte, barcode string) ([]byte, error) {
	if barcode != "" && !validBarcode(barcode) {
		return b, formatError("VOL1 record", "barcode %q is not six capital letters and digits", barcode)
	}
	record := bytes.Repeat([]byte{' '}, VOL1Bytes)
	copy(record, "VOL1")
	copy(record[4:], barcode)
	record[10] = 'L'
	copy(record[24:], "LTFS")
	record[79] = '4'
	return append(b, record...), nil
}

func validBarcode(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(s) == 6
}

// ParseVOL1 reads a VOL1 record and returns the barcode, empty when there is none.
// A record longer than 80 bytes is accepted for its first 80.
func ParseVOL1(record []byte) (barcode string, err error) {
	const what = "VOL1 record"
	switch {
	case len(record) < VOL1Bytes:
		return "", formatError(what, "has %d bytes, want %d", len(record), VOL1Bytes)
	case string(record[:4]) != "VOL1":
		return "", formatError(what, "does not begin with VOL1: not a labelled tape")
	case string(record[24:28]) != "LTFS":
		return "", formatError(what, "is of another format (%.13q), not LTFS", strings.TrimSpace(string(record[24:37])))
	}
	barcode = string(record[4:10])
	if barcode == "      " {
		return "", nil
	}
	if !validBarcode(barcode) {
		return "", formatError(what, "barcode %q is not six capital letters and digits", barcode)
	}
	return barcode, nil
}

// Validate checks a label by itself.
func (l *Label) Validate() error {
	const what = "label"
	switch {
	case !validUUID(l.VolumeUUID):
		return formatError(what, "volume UUID %q is not a UUID", l.VolumeUUID)
	case l.IndexPart == l.DataPart:
		return formatError(what, "index and data partition are both %q", l.IndexPart)
	case l.Location != l.IndexPart && l.Location != l.DataPart:
		return formatError(what, "stands in partition %q, which is neither the index nor the data partition", l.Location)
	case l.BlockSize < MinBlockSize || l.BlockSize > 1<<24-1:
		return formatError(what, "block size %d is not between %d and %d", l.BlockSize, MinBlockSize, 1<<24-1)
	}
	return checkVersion(what, l.Version)
}

// Agree checks that two labels are those of one volume: equal in all but their
// location, and one in each partition.
func (l *Label) Agree(other *Label) error {
	a, b := *l, *other
	a.Location, b.Location = 0, 0
	if a != b {
		return formatError("label", "the two partitions' labels are of different volumes or formats")
	}
	if l.Location == other.Location {
		return formatError("label", "both labels say that they stand in partition %q", l.Location)
	}
	return nil
}

// WriteTo writes the label's XML.
func (l *Label) WriteTo(w io.Writer) (int64, error) {
	if err := l.Validate(); err != nil {
		return 0, err
	}
	var b bytes.Buffer
	e := newEncoder(&b)
	e.raw(xmlDeclaration + `<ltfslabel version="` + l.Version + `">` + "\n")
	e.text("creator", l.Creator)
	e.time("formattime", l.FormatTime)
	e.text("volumeuuid", l.VolumeUUID)
	e.raw("<location>\n<partition>" + string(l.Location) + "</partition>\n</location>\n")
	e.raw("<partitions>\n<index>" + string(l.IndexPart) + "</index>\n<data>" + string(l.DataPart) + "</data>\n</partitions>\n")
	e.number("blocksize", l.BlockSize)
	e.boolean("compression", l.Compression)
	e.raw("</ltfslabel>\n")
	if _, err := e.finish(); err != nil {
		return 0, err
	}
	if b.Len() > MaxLabelBytes {
		return 0, formatError("label", "is longer than %d bytes; shorten the creator", MaxLabelBytes)
	}
	n, err := w.Write(b.Bytes())
	return int64(n), err
}

// ReadLabel reads and validates a label.
func ReadLabel(r io.Reader) (*Label, error) {
	limited := &io.LimitedReader{R: r, N: MaxLabelBytes + 1}
	d := &decoder{scanner: newScanner("label", limited)}
	if err := d.root("ltfslabel"); err != nil {
		return nil, err
	}
	l := &Label{}
	var err error
	if l.Version, err = d.version(); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	err = d.children("ltfslabel", func(name string) error {
		if seen[name] {
			return d.fail("has <%.40s> twice", name)
		}
		seen[name] = true
		return d.labelChild(l, name)
	})
	if err == nil {
		err = d.require("ltfslabel", seen, "creator", "formattime", "volumeuuid", "location", "partitions", "blocksize", "compression")
	}
	if err == nil {
		err = d.finish()
	}
	if err == nil && limited.N == 0 {
		err = formatError("label", "is longer than %d bytes", MaxLabelBytes)
	}
	if err != nil {
		return nil, err
	}
	return l, l.Validate()
}

func (d *decoder) labelChild(l *Label, name string) (err error) {
	switch name {
	case "creator":
		l.Creator, err = d.leaf(name)
	case "formattime":
		l.FormatTime, err = d.timestamp(name)
	case "volumeuuid":
		l.VolumeUUID, err = d.leaf(name)
	case "location":
		err = d.letters(name, map[string]*byte{"partition": &l.Location})
	case "partitions":
		err = d.letters(name, map[string]*byte{"index": &l.IndexPart, "data": &l.DataPart})
	case "blocksize":
		l.BlockSize, err = d.number(name)
	case "compression":
		l.Compression, err = d.boolean(name)
	default:
		err = d.skip()
	}
	return err
}

// letters reads an element whose children are partition letters.
func (d *decoder) letters(parent string, want map[string]*byte) error {
	err := d.children(parent, func(name string) (err error) {
		to := want[name]
		if to == nil {
			return d.fail("has <%.40s> in <%s>", name, parent)
		}
		*to, err = d.partition()
		return err
	})
	for name, to := range want {
		if err == nil && *to == 0 {
			err = d.fail("<%s> lacks <%s>", parent, name)
		}
	}
	return err
}
