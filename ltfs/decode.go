package ltfs

import "io"

// decoder reads one document.
type decoder struct {
	*scanner
	names map[string]string // xattr keys that came before: few, and the same in every file
	torn  bool              // keep what was read before an error
}

// ReadIndex reads a full index of format 1.0 to 2.5. It reads to the end of r;
// NUL bytes after the document (a padded block) are accepted.
func ReadIndex(r io.Reader) (*Index, error) {
	d := &decoder{scanner: newScanner("index", r), names: map[string]string{}}
	if err := d.root("ltfsindex"); err != nil {
		return nil, err
	}
	ix := &Index{}
	if err := d.index(ix); err != nil {
		return nil, err
	}
	return ix, d.finish()
}

// root reads the start tag of the document element.
func (d *decoder) root(want string) error {
	kind, err := d.next()
	switch {
	case err != nil:
		return err
	case kind != tokenStart || !d.blank():
		return d.fail("is not XML")
	case string(d.name) != want:
		return d.fail("begins with <%.40s>, want <%s>", d.name, want)
	}
	return nil
}

func (d *decoder) finish() error {
	if kind, err := d.next(); err != nil {
		return err
	} else if kind != tokenEOF {
		return d.fail("has a second document element")
	}
	return nil
}

// children calls each for every child of the open element until its end tag. Each
// consumes the child, end tag included.
func (d *decoder) children(parent string, each func(name string) error) error {
	for {
		kind, err := d.next()
		switch {
		case err != nil:
			return err
		case kind == tokenEOF:
			return d.fail("ends inside <%s>", parent)
		case !d.blank():
			return d.fail("has text where only elements belong, in <%s>", parent)
		case kind == tokenEnd:
			return nil
		}
		if err := each(string(d.name)); err != nil {
			return err
		}
	}
}

// leaf reads the text of the element just opened, and its end tag.
func (d *decoder) leaf(name string) (string, error) {
	kind, err := d.next()
	if err != nil {
		return "", err
	}
	if kind != tokenEnd {
		return "", d.fail("has an element inside <%s>", name)
	}
	return d.string()
}

// rawLeaf is leaf without a copy, for numbers and times.
func (d *decoder) rawLeaf(name string) ([]byte, error) {
	kind, err := d.next()
	if err != nil {
		return nil, err
	}
	if kind != tokenEnd {
		return nil, d.fail("has an element inside <%s>", name)
	}
	return d.text, nil
}

func (d *decoder) number(name string) (uint64, error) {
	text, err := d.rawLeaf(name)
	if err != nil {
		return 0, err
	}
	var v uint64
	if len(text) == 0 || len(text) > 20 {
		return 0, d.fail("<%s> is not a number", name)
	}
	for _, c := range text {
		digit := uint64(c - '0')
		if c < '0' || c > '9' || v > (1<<64-1-digit)/10 {
			return 0, d.fail("<%s> is not a number of 64 bits: %.30q", name, text)
		}
		v = v*10 + digit
	}
	return v, nil
}

func (d *decoder) boolean(name string) (bool, error) {
	text, err := d.rawLeaf(name)
	if err != nil {
		return false, err
	}
	switch string(text) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, d.fail("<%s> is %.20q, want true or false", name, text)
}

func (d *decoder) timestamp(name string) (Timestamp, error) {
	text, err := d.rawLeaf(name)
	if err != nil {
		return Timestamp{}, err
	}
	t, ok := parseTimestamp(text)
	if !ok {
		return Timestamp{}, d.fail("<%s> is not a time of the form 2006-01-02T15:04:05.000000000Z: %.40q", name, text)
	}
	return t, nil
}

// nameText reads a "nametype": text that may be percent-encoded.
func (d *decoder) nameText(name string) (string, error) {
	encoded := d.percentEncoded()
	text, err := d.leaf(name)
	if err != nil || !encoded {
		return text, err
	}
	decoded, ok := decodePercent(text)
	if !ok {
		return "", d.fail("<%s> is not percent-encoded as it says: %.60q", name, text)
	}
	return decoded, nil
}

func (d *decoder) percentEncoded() bool {
	if len(d.attrs) == 0 {
		return false
	}
	v, ok := attribute(d.attrs, "percentencoded")
	return ok && (string(v) == "true" || string(v) == "1")
}

// unknown keeps the element just opened, byte for byte.
func (d *decoder) unknown(to *[]byte) error {
	name, attrs := string(d.name), string(d.attrs)
	raw := "<" + name + attrs
	if d.selfClose {
		raw += "/"
	}
	d.keep, d.keeping = append(d.keep[:0], raw+">"...), true
	err := d.skip()
	d.keeping = false
	if err != nil {
		return err
	}
	*to = append(append(*to, d.keep...), '\n')
	return nil
}

// require fails when an element that the format demands is missing.
func (d *decoder) require(parent string, seen map[string]bool, names ...string) error {
	for _, n := range names {
		if !seen[n] {
			return d.fail("<%s> lacks <%s>", parent, n)
		}
	}
	return nil
}

func (d *decoder) version() (string, error) {
	v, ok := attribute(d.attrs, "version")
	if !ok {
		return "", d.fail("has no version")
	}
	return string(v), checkVersion(d.what, string(v))
}

func (d *decoder) index(ix *Index) (err error) {
	if ix.Version, err = d.version(); err != nil {
		return err
	}
	seen := map[string]bool{}
	err = d.children("ltfsindex", func(name string) error {
		if seen[name] && name != "directory" {
			return d.fail("has <%.40s> twice", name)
		}
		seen[name] = true
		return d.indexChild(ix, name)
	})
	if err != nil {
		return err
	}
	return d.require("ltfsindex", seen, "creator", "volumeuuid", "generationnumber", "updatetime", "location", "directory")
}

func (d *decoder) indexChild(ix *Index, name string) (err error) {
	switch name {
	case "creator":
		ix.Creator, err = d.leaf(name)
	case "comment":
		ix.Comment, err = d.leaf(name)
	case "volumeuuid":
		if ix.VolumeUUID, err = d.leaf(name); err == nil && !validUUID(ix.VolumeUUID) {
			err = d.fail("<volumeuuid> is not a UUID: %.60q", ix.VolumeUUID)
		}
	case "generationnumber":
		ix.Generation, err = d.number(name)
	case "updatetime":
		ix.UpdateTime, err = d.timestamp(name)
	case "location":
		ix.Self, err = d.location(name)
	case "previousgenerationlocation":
		ix.Previous, err = d.location(name)
	case "allowpolicyupdate":
		ix.AllowPolicyUpdate, err = d.boolean(name)
	case "dataplacementpolicy":
		ix.Policy, err = d.policy()
	case "highestfileuid":
		ix.HighestUID, err = d.number(name)
	case "volumelockstate":
		ix.Lock, err = d.lock()
	case "directory":
		if ix.Root != nil {
			return d.fail("has two root directories")
		}
		root, derr := d.directory()
		if derr == nil || d.torn {
			ix.Root = root
		}
		err = derr
	default:
		err = d.unknown(&ix.Unknown)
	}
	return err
}

func (d *decoder) lock() (Lock, error) {
	text, err := d.leaf("volumelockstate")
	if err != nil {
		return 0, err
	}
	for i, name := range lockNames {
		if text == name {
			return Lock(i), nil
		}
	}
	return 0, d.fail("<volumelockstate> is %.20q", text)
}

func (d *decoder) location(parent string) (l Location, err error) {
	seen := map[string]bool{}
	err = d.children(parent, func(name string) (err error) {
		seen[name] = true
		switch name {
		case "partition":
			l.Partition, err = d.partition()
		case "startblock":
			l.Block, err = d.number(name)
		default:
			return d.fail("has <%.40s> in <%s>", name, parent)
		}
		return err
	})
	if err == nil {
		err = d.require(parent, seen, "partition", "startblock")
	}
	return l, err
}

func (d *decoder) partition() (byte, error) {
	text, err := d.rawLeaf("partition")
	if err != nil {
		return 0, err
	}
	if len(text) != 1 || text[0] < 'a' || text[0] > 'z' {
		return 0, d.fail("<partition> is %.20q, want a letter from a to z", text)
	}
	return text[0], nil
}

func (d *decoder) policy() (*Policy, error) {
	p := &Policy{}
	criteria := false
	err := d.children("dataplacementpolicy", func(name string) error {
		if name != "indexpartitioncriteria" || criteria {
			return d.fail("has <%.40s> in <dataplacementpolicy>", name)
		}
		criteria = true
		return d.children(name, func(name string) (err error) {
			switch name {
			case "size":
				p.MaxSize, err = d.number(name)
			case "name":
				var glob string
				glob, err = d.nameText(name)
				p.Names = append(p.Names, glob)
			default:
				err = d.fail("has <%.40s> in <indexpartitioncriteria>", name)
			}
			return err
		})
	})
	return p, err
}

func validUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return false
			}
		} else if unhex(s[i]) < 0 {
			return false
		}
	}
	return true
}
