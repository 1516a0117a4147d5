package ltfscheck

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// standing is an index on the tape.
type standing struct {
	part, first, end int // its filemark stands at end
	root             *node
	generation       uint64
}

// checkIndexes finds every index by its filemarks and checks each, their pointers,
// and the tree of the newest.
func (r *reader) checkIndexes() error {
	var all [2][]standing
	for p := range 2 {
		list, err := r.find(p)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return fmt.Errorf("partition %d holds no index", p)
		}
		all[p] = list
		if last := list[len(list)-1]; last.end != len(r.parts[p])-1 {
			r.bad("partition %d does not end in an index: it ends at %d, the last index at %d", p, len(r.parts[p]), last.end)
		}
	}
	index, data := all[r.number(r.index)], all[r.number(r.data)]
	if len(index) != 1 {
		r.bad("the index partition holds %d indexes", len(index))
	}
	r.checkData(data)
	newest, copied := data[len(data)-1], index[len(index)-1]
	if copied.generation != newest.generation {
		r.bad("the partitions end in generations %d and %d", copied.generation, newest.generation)
	}
	r.pointer(copied, string(r.data)+":"+strconv.Itoa(newest.first))
	for _, s := range []standing{newest, copied} {
		r.checkCoherency(s.part, s.first, s.generation)
	}
	r.v.Name = copied.root.child("directory").name0()
	return r.walkVolume(copied)
}

// find lists the indexes of a partition.
func (r *reader) find(p int) (list []standing, err error) {
	b := r.parts[p]
	for n := 4; n < len(b); n++ {
		if !b[n].mark || n+1 == len(b) || b[n+1].mark {
			continue
		}
		if !bytes.Contains(b[n+1].data[:min(200, len(b[n+1].data))], []byte("<ltfsindex ")) {
			continue
		}
		s := standing{part: p, first: n + 1}
		var text []byte
		for s.end = n + 1; s.end < len(b) && !b[s.end].mark; s.end++ {
			text = append(text, b[s.end].data...)
			if size, last := len(b[s.end].data), s.end+1 < len(b) && b[s.end+1].mark; size > r.v.BlockSize || size < r.v.BlockSize && !last {
				r.bad("the index at %d of partition %d has a record of %d bytes in between", s.first, p, size)
			}
		}
		if s.root, err = parseXML(text); err != nil {
			return nil, fmt.Errorf("index at %d of partition %d: %w", s.first, p, err)
		}
		r.checkHead(&s)
		list = append(list, s)
		n = s.end - 1
	}
	return list, nil
}

func (r *reader) checkHead(s *standing) {
	what := fmt.Sprintf("index at %d of partition %d", s.first, s.part)
	order := []string{"creator", "comment", "volumeuuid", "generationnumber", "updatetime", "location", "previousgenerationlocation",
		"allowpolicyupdate", "dataplacementpolicy", "highestfileuid", "volumelockstate", "directory"}
	r.order(s.root, what, order, map[string]bool{"comment": true, "previousgenerationlocation": true, "dataplacementpolicy": true})
	if s.root.name != "ltfsindex" || s.root.attrs["version"] != "2.4.0" {
		r.bad("%s is <%s version=%q>", what, s.root.name, s.root.attrs["version"])
	}
	if s.root.text("volumeuuid") != r.v.UUID {
		r.bad("%s is of volume %s", what, s.root.text("volumeuuid"))
	}
	s.generation, _ = strconv.ParseUint(s.root.text("generationnumber"), 10, 32)
	if here := s.root.text("location", "partition") + ":" + s.root.text("location", "startblock"); here != r.label[s.part].text("location", "partition")+":"+strconv.Itoa(s.first) {
		r.bad("%s says that it stands at %s", what, here)
	}
	r.timestamp(what, s.root.text("updatetime"))
}

// checkData checks the data partition's chain of generations.
func (r *reader) checkData(list []standing) {
	for i, s := range list {
		r.v.Generations = append(r.v.Generations, int(s.generation))
		if i == 0 {
			if s.first != 5 || s.generation != 1 || s.root.child("previousgenerationlocation") != nil {
				r.bad("the first index stands at %d with generation %d", s.first, s.generation)
			}
			continue
		}
		before := list[i-1]
		if s.generation <= before.generation {
			r.bad("generation %d follows %d", s.generation, before.generation)
		}
		r.pointer(s, string(r.data)+":"+strconv.Itoa(before.first))
	}
}

func (r *reader) pointer(s standing, want string) {
	if got := s.root.text("previousgenerationlocation", "partition") + ":" + s.root.text("previousgenerationlocation", "startblock"); got != want {
		r.bad("the index at %d of partition %d points back to %s, want %s", s.first, s.part, got, want)
	}
}

// order checks that the children of an element come in the order of the format,
// each once, the optional ones perhaps not; unknown ones come last.
func (r *reader) order(n *node, what string, order []string, optional map[string]bool) {
	at := 0
	for _, c := range n.children {
		i := at
		for i < len(order) && order[i] != c.name {
			if !optional[order[i]] {
				r.bad("%s: <%s> where <%s> belongs", what, c.name, order[i])
				return
			}
			i++
		}
		if i == len(order) && at < len(order) {
			r.bad("%s: <%s> before <%s>", what, c.name, order[at])
			return
		}
		at = min(i+1, len(order))
	}
	for ; at < len(order); at++ {
		if !optional[order[at]] {
			r.bad("%s lacks <%s>", what, order[at])
		}
	}
}

var timeForm = regexp.MustCompile(`^\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{9}Z$`)

func (r *reader) timestamp(what, s string) {
	if !timeForm.MatchString(s) {
		r.bad("%s: %q is not a time", what, s)
	}
}

// nameOf decodes a name and checks its encoding against the rule: encoded when and
// only when it holds ':' or something XML cannot, and then everything outside
// printable ASCII, and space, '%' and ':', as %XX.
func (r *reader) nameOf(what string, n *node) string {
	if n.attrs["percentencoded"] != "true" {
		if strings.Contains(n.chars, ":") {
			r.bad("%s: %q is not encoded", what, n.chars)
		}
		return n.chars
	}
	var decoded []byte
	for i := 0; i < len(n.chars); i++ {
		c := n.chars[i]
		if c != '%' {
			if c <= ' ' || c >= 0x7F || c == ':' {
				r.bad("%s: %q holds %q as it is", what, n.chars, c)
			}
			decoded = append(decoded, c)
			continue
		}
		if i+2 >= len(n.chars) {
			r.bad("%s: %q ends in an escape", what, n.chars)
			break
		}
		digits := n.chars[i+1 : i+3]
		v, err := strconv.ParseUint(digits, 16, 8)
		if err != nil || strings.ToUpper(digits) != digits {
			r.bad("%s: %q holds %%%s", what, n.chars, digits)
		}
		if v > ' ' && v < 0x7F && v != ':' && v != '%' {
			r.bad("%s: %q encodes %q, which needs it not", what, n.chars, rune(v))
		}
		decoded, i = append(decoded, byte(v)), i+2
	}
	needed := bytes.IndexFunc(decoded, func(c rune) bool {
		return c == ':' || c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0xFFFE || c == 0xFFFF
	}) >= 0 || !utf8.Valid(decoded)
	if !needed {
		r.bad("%s: %q is encoded and need not be", what, n.chars)
	}
	return string(decoded)
}

func (r *reader) xattrs(what string, n *node) map[string]string {
	found := map[string]string{}
	for _, x := range n.children {
		r.order(x, what+" attribute", []string{"key", "value"}, nil)
		value := x.child("value")
		text := value.chars
		if value.attrs["type"] == "base64" {
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				r.bad("%s: attribute: %v", what, err)
			}
			text = string(raw)
		}
		if len(text) > 4096 {
			r.bad("%s: an attribute has %d bytes", what, len(text))
		}
		found[r.nameOf(what, x.child("key"))] = text
	}
	return found
}
