package ltfscheck

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// node is an element, whatever its name.
type node struct {
	name     string
	attrs    map[string]string
	chars    string
	children []*node
}

func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// text is the text of the element at a path, empty when there is none.
func (n *node) text(path ...string) string {
	for _, p := range path {
		n = n.child(p)
	}
	if n == nil {
		return ""
	}
	return n.chars
}

// name0 is the plain text of the element's name.
func (n *node) name0() string { return n.text("name") }

func parseXML(text []byte) (*node, error) {
	d := xml.NewDecoder(&reading{text: text})
	top := &node{}
	stack := []*node{top}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		in := stack[len(stack)-1]
		switch token := token.(type) {
		case xml.StartElement:
			n := &node{name: token.Name.Local, attrs: map[string]string{}}
			for _, a := range token.Attr {
				n.attrs[a.Name.Local] = a.Value
			}
			in.children = append(in.children, n)
			stack = append(stack, n)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
			if len(in.children) > 0 {
				in.chars = ""
			}
		case xml.CharData:
			in.chars += string(token)
		}
	}
	if len(top.children) != 1 {
		return nil, fmt.Errorf("%d document elements", len(top.children))
	}
	return top.children[0], nil
}

type reading struct{ text []byte }

func (r *reading) Read(p []byte) (int, error) {
	if len(r.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

var times = []string{"creationtime", "changetime", "modifytime", "accesstime", "backuptime"}

// walkVolume checks the tree of an index and reads every file.
func (r *reader) walkVolume(s standing) error {
	w := &walker{reader: r, uids: map[string]string{}, names: map[string]bool{}}
	highest, err := strconv.ParseUint(s.root.text("highestfileuid"), 10, 64)
	if err != nil {
		return err
	}
	w.highest = highest
	root := s.root.child("directory")
	if root.text("fileuid") != "1" {
		r.bad("the root has file UID %s", root.text("fileuid"))
	}
	w.directory("", root)
	return nil
}

type walker struct {
	*reader
	uids    map[string]string
	names   map[string]bool
	highest uint64
}

func (w *walker) uid(path string, n *node) {
	uid := n.text("fileuid")
	if other, taken := w.uids[uid]; taken {
		w.bad("%s and %s have file UID %s", path, other, uid)
	}
	w.uids[uid] = path
	if v, err := strconv.ParseUint(uid, 10, 64); err != nil || v == 0 || v > w.highest {
		w.bad("%s has file UID %q above the highest %d", path, uid, w.highest)
	}
}

func (w *walker) entry(path string, n *node) *Entry {
	w.uid(path, n)
	for _, t := range times {
		w.timestamp(path, n.text(t))
	}
	e := &Entry{ReadOnly: n.text("readonly") == "true", Modified: n.text("modifytime"), XAttrs: map[string]string{}}
	if r := n.text("readonly"); r != "true" && r != "false" {
		w.bad("%s: readonly is %q", path, r)
	}
	if x := n.child("extendedattributes"); x != nil {
		e.XAttrs = w.xattrs(path, x)
	}
	if w.names[path] {
		w.bad("%s stands there twice", path)
	}
	w.names[path], w.v.Entries[path] = true, e
	return e
}

func (w *walker) directory(path string, n *node) {
	w.order(n, "directory "+path, append(append([]string{"name", "readonly"}, times...), "fileuid", "extendedattributes", "contents"), map[string]bool{"extendedattributes": true})
	w.entry(path, n).Kind = "dir"
	for _, c := range n.child("contents").children {
		below := path + "/" + w.nameOf(path, c.child("name"))
		switch c.name {
		case "directory":
			w.directory(below, c)
		case "file":
			w.file(below, c)
		default:
			w.bad("%s holds <%s>", path, c.name)
		}
	}
}

func (w *walker) file(path string, n *node) {
	w.order(n, "file "+path, append(append([]string{"name", "length", "readonly", "openforwrite"}, times...), "fileuid", "extendedattributes", "symlink", "extentinfo"),
		map[string]bool{"openforwrite": true, "extendedattributes": true, "symlink": true, "extentinfo": true})
	e := w.entry(path, n)
	length, err := strconv.ParseUint(n.text("length"), 10, 64)
	if err != nil {
		w.bad("%s: %v", path, err)
		return
	}
	e.Kind, e.Length = "file", length
	if link := n.child("symlink"); link != nil {
		e.Kind, e.Target = "link", w.nameOf(path, link)
		if n.child("extentinfo") != nil {
			w.bad("%s is a link and has data", path)
		}
		return
	}
	e.Data = make([]byte, length)
	if info := n.child("extentinfo"); info != nil {
		w.extents(path, e, info.children)
	}
}

type extent struct {
	fileOffset, startBlock, byteOffset, byteCount uint64
	part                                          int
}

func (w *walker) extents(path string, e *Entry, nodes []*node) {
	list := make([]extent, 0, len(nodes))
	for _, n := range nodes {
		w.order(n, "extent of "+path, []string{"fileoffset", "partition", "startblock", "byteoffset", "bytecount"}, nil)
		x := extent{part: w.number(letter(n.text("partition")))}
		for name, to := range map[string]*uint64{"fileoffset": &x.fileOffset, "startblock": &x.startBlock, "byteoffset": &x.byteOffset, "bytecount": &x.byteCount} {
			var err error
			if *to, err = strconv.ParseUint(n.text(name), 10, 64); err != nil {
				w.bad("%s: %v", path, err)
			}
		}
		list = append(list, x)
	}
	e.Extents = len(list)
	slices.SortFunc(list, func(a, b extent) int { return cmp.Compare(a.fileOffset, b.fileOffset) })
	var end uint64
	for _, x := range list {
		if x.part < 0 || x.byteCount == 0 || x.fileOffset < end || x.fileOffset+x.byteCount > e.Length || x.byteOffset >= uint64(w.v.BlockSize) || x.startBlock < 4 {
			w.bad("%s has the extent %+v in a file of %d bytes", path, x, e.Length)
			return
		}
		end = x.fileOffset + x.byteCount
		w.read(path, x, e.Data[x.fileOffset:end])
	}
}

// read copies an extent's bytes: it begins in one record, goes through full ones
// and ends in one.
func (w *walker) read(path string, x extent, to []byte) {
	skip := int(x.byteOffset)
	for n := int(x.startBlock); len(to) > 0; n++ {
		if n >= len(w.parts[x.part]) || w.parts[x.part][n].mark {
			w.bad("%s: its data runs into %d of partition %d, which is no record", path, n, x.part)
			return
		}
		record := w.parts[x.part][n].data
		if skip >= len(record) {
			w.bad("%s: record %d of partition %d has %d bytes", path, n, x.part, len(record))
			return
		}
		copied := copy(to, record[skip:])
		to, skip = to[copied:], 0
		if len(to) > 0 && len(record) != w.v.BlockSize {
			w.bad("%s goes on behind record %d of partition %d, which is short", path, n, x.part)
			return
		}
	}
}
