package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits against input that is small on disk and huge when expanded.
const (
	maxFileBytes = 4 << 20
	maxNodes     = 200_000 // decoded, aliases counted each time
	maxNesting   = 200     // brackets and indentation; the YAML parser recurses
)

// decoder fills grammar structs from one file and collects what is wrong with it.
type decoder struct {
	file     string
	problems *Problems
	at       map[any]Pos // pointer to a decoded value, or entryOf, → where it stands
	anchors  map[string]ast.Node
	nodes    int
}

// entryOf is the decoder's name for the place of one entry of a Go map.
type entryOf struct {
	in  any
	key string
}

// An entry is one line of a mapping.
type entry struct {
	key   string
	keyAt Pos
	value ast.Node
}

// document parses src and decodes its only document into v. It returns false when
// nothing could be decoded.
func (d *decoder) document(src []byte, v any) bool {
	if len(src) > maxFileBytes || tooDeep(src) {
		d.fail(Pos{File: d.file}, "the file is too large or too deeply nested to be a configuration", "")
		return false
	}
	file, err := parser.ParseBytes(src, 0)
	if err != nil {
		d.syntax(err)
		return false
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case body != nil:
			d.fail(d.pos(doc.Body), "a second YAML document", "one file holds one document; use include for more files")
		default:
			body = doc.Body
		}
	}
	target := reflect.ValueOf(v).Elem()
	if body == nil {
		d.absent(target, &key{}, "")
		return true
	}
	d.anchors = map[string]ast.Node{}
	ast.Walk(d, body)
	d.node(body, target, key{}, "")
	return true
}

// Visit collects anchors; it makes the decoder an ast.Visitor.
func (d *decoder) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		d.anchors[a.Name.GetToken().Value] = a.Value
	}
	return d
}

// tooDeep guesses nesting from brackets and the depth of the indentation, which is
// what the parser's recursion follows.
func tooDeep(src []byte) bool {
	depth, deepest := 0, 0
	for line := range strings.Lines(string(src)) {
		indent := len(line) - len(strings.TrimLeft(line, " -?"))
		for i := range len(line) {
			switch line[i] {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
			deepest = max(deepest, depth)
		}
		deepest = max(deepest, indent/2)
	}
	return deepest > maxNesting
}

func (d *decoder) syntax(err error) {
	at := Pos{File: d.file}
	var ye yaml.Error
	if !errors.As(err, &ye) {
		d.fail(at, "not YAML: "+err.Error(), "")
		return
	}
	if t := ye.GetToken(); t != nil && t.Position != nil {
		at = d.tokenPos(t)
	}
	d.fail(at, "not YAML: "+ye.GetMessage(), "")
}

func (d *decoder) fail(at Pos, text, hint string) {
	*d.problems = append(*d.problems, Problem{At: at, Text: text, Hint: hint})
}

func (d *decoder) unsupported(at Pos, text, hint string) {
	*d.problems = append(*d.problems, Problem{At: at, Text: text, Hint: hint, Unsupported: true})
}

func (d *decoder) tokenPos(t *token.Token) Pos {
	return Pos{File: d.file, Line: t.Position.Line, Column: max(1, t.Position.Column)}
}

// pos is where a node begins. A block mapping's own token is its first colon, which
// is not where a reader looks.
func (d *decoder) pos(n ast.Node) Pos {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return d.pos(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return d.pos(m.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return d.tokenPos(t)
	}
	return Pos{File: d.file}
}

// plain resolves anchors, aliases and tags. It returns nil for null and for what it
// has reported.
func (d *decoder) plain(n ast.Node) ast.Node {
	d.nodes++
	if d.nodes == maxNodes {
		d.fail(d.pos(n), "the file expands to too many values", "aliases multiply; write less")
	}
	if d.nodes >= maxNodes {
		return nil
	}
	for range 10 {
		switch t := n.(type) {
		case nil, *ast.NullNode:
			return nil
		case *ast.AnchorNode:
			n = t.Value
		case *ast.TagNode:
			n = t.Value
		case *ast.AliasNode:
			name := t.Value.GetToken().Value
			target, ok := d.anchors[name]
			if !ok {
				d.fail(d.pos(t), fmt.Sprintf("unknown alias %q", name), "define it before with &"+name)
				return nil
			}
			n = target
		default:
			return n
		}
	}
	d.fail(d.pos(n), "an alias that leads to itself", "")
	return nil
}

// node decodes n into v, whose key is k inside a struct of the union member.
func (d *decoder) node(n ast.Node, v reflect.Value, k key, member string) {
	at := d.pos(n)
	n = d.plain(n)
	if n == nil {
		d.absent(v, &k, member)
		return
	}
	d.at[v.Addr().Interface()] = at
	if leaf, ok := leaves[v.Type()]; ok {
		leaf.decode(d, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, member)
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.node(n, v.Elem(), k, member)
	case reflect.Slice:
		d.list(n, v, k, member)
	case reflect.Map:
		d.mapping(n, v, k)
	default:
		text, ok := d.text(n)
		if !ok {
			return
		}
		if err := d.scalar(text, v, &k); err != nil {
			d.bad(at, err)
		} else if what, later := k.later[text]; later {
			d.unsupported(at, fmt.Sprintf("%q needs %s: not in this version", text, what), k.instead)
		}
	}
}

// isNull reports whether a value is there only in name.
func (d *decoder) isNull(n ast.Node) bool {
	before := len(*d.problems)
	return d.plain(n) == nil && len(*d.problems) == before
}

// text is a scalar's text as written, whatever YAML takes it for: a name may look
// like a number.
func (d *decoder) text(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.LiteralNode:
		return s.Value.Value, true
	case *ast.StringNode:
		return s.Value, true
	case ast.ScalarNode:
		return s.GetToken().Value, true
	}
	d.fail(d.pos(n), "a single value is wanted here, not "+whatIs(n), "")
	return "", false
}

func whatIs(n ast.Node) string {
	switch n.(type) {
	case ast.MapNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// entries lists a mapping's lines with merged mappings (<<) behind its own, so that
// the first entry of a key wins.
func (d *decoder) entries(n ast.Node) ([]entry, bool) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.fail(d.pos(n), "a mapping (key: value) is wanted here, not "+whatIs(n), "")
		return nil, false
	}
	var own, merged []entry
	for it := m.MapRange(); it.Next(); {
		if it.Key().IsMergeKey() {
			if inner := d.plain(it.Value()); inner != nil {
				es, _ := d.entries(inner)
				merged = append(merged, es...)
			}
			continue
		}
		var name ast.Node = it.Key()
		if mk, ok := name.(*ast.MappingKeyNode); ok {
			name = mk.Value
		}
		if name = d.plain(name); name == nil {
			continue
		}
		if key, ok := d.text(name); ok {
			own = append(own, entry{key, d.pos(it.Key()), it.Value()})
		}
	}
	return append(own, merged...), true
}

// structure decodes a mapping by the shape of v.
func (d *decoder) structure(n ast.Node, v reflect.Value, member string) {
	es, ok := d.entries(n)
	if !ok {
		return
	}
	s := shapeOf(v.Type())
	if at := v.FieldByName("At"); at.IsValid() {
		at.Set(reflect.ValueOf(d.pos(n)))
	}
	if s.union {
		if member, ok = d.member(n, es, s); !ok {
			return
		}
	}
	seen := map[string]bool{}
	for _, e := range es {
		k := s.find(e.key)
		switch {
		case seen[e.key]:
		case k == nil:
			names := s.names(member)
			d.fail(e.keyAt, fmt.Sprintf("unknown key %q", e.key), oneOf(e.key, names))
			seen[nearest(e.key, names)] = true // do not also report it as missing
		case !k.belongsTo(member):
			d.fail(e.keyAt, fmt.Sprintf("key %q does not belong to type %s", e.key, member), "it belongs to "+strings.Join(k.members, ", "))
		case d.isNull(e.value):
			continue // as if it did not stand there
		default:
			d.field(e, v.Field(k.index), k, member)
		}
		seen[e.key] = true
	}
	d.complete(d.pos(n), s, seen, v, member)
}

// field decodes one entry of a struct, and refuses what is not built yet.
func (d *decoder) field(e entry, v reflect.Value, k *key, member string) {
	d.node(e.value, v, *k, member)
	what, later := k.later[""]
	if !later {
		return
	}
	unset := reflect.New(v.Type()).Elem()
	d.absent(unset, k, member)
	if !reflect.DeepEqual(v.Interface(), unset.Interface()) {
		d.unsupported(e.keyAt, fmt.Sprintf("key %q needs %s: not in this version", e.key, what), k.instead)
	}
}

// member finds which of a union's members the mapping is.
func (d *decoder) member(n ast.Node, es []entry, s *shape) (string, bool) {
	k := s.find("type")
	for _, e := range es {
		if e.key != "type" {
			continue
		}
		var word string
		before := len(*d.problems)
		if value := d.plain(e.value); value != nil {
			if word, _ = d.text(value); word != "" {
				if err := checkWord(word, k.values); err != nil {
					d.bad(d.pos(e.value), err)
				}
			}
		}
		if word == "" && len(*d.problems) == before {
			d.fail(e.keyAt, "empty type", oneOf("", k.values))
		}
		return word, len(*d.problems) == before
	}
	d.fail(d.pos(n), `missing key "type"`, oneOf("", k.values))
	return "", false
}

// complete reports required keys that are missing and fills in the defaults.
func (d *decoder) complete(at Pos, s *shape, seen map[string]bool, v reflect.Value, member string) {
	for i := range s.keys {
		k := &s.keys[i]
		if seen[k.name] || !k.belongsTo(member) {
			continue
		}
		if k.requiredIn(member) {
			d.fail(at, fmt.Sprintf("missing key %q", k.name), k.doc)
			continue
		}
		d.absent(v.Field(k.index), k, member)
	}
}

// absent sets what a value is when its key does not stand in the file.
func (d *decoder) absent(v reflect.Value, k *key, member string) {
	if text, ok := k.defaultIn(member); ok {
		if err := d.scalar(text, v, k); err != nil {
			panic(fmt.Sprintf("config: default %q of key %s: %v", text, k.name, err))
		}
		return
	}
	if v.Kind() != reflect.Struct || leaves[v.Type()].decode != nil {
		return
	}
	s := shapeOf(v.Type())
	if s.union {
		return
	}
	for i := range s.keys {
		if inner := &s.keys[i]; inner.belongsTo(member) {
			d.absent(v.Field(inner.index), inner, member)
		}
	}
}

// list decodes a sequence, or a mapping of named things.
func (d *decoder) list(n ast.Node, v reflect.Value, k key, member string) {
	elem := v.Type().Elem()
	if elem.Kind() == reflect.Pointer && shapeOf(elem.Elem()).named >= 0 {
		d.named(n, v)
		return
	}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(d.pos(n), "a list is wanted here, not "+whatIs(n), "begin each entry with '- '")
		return
	}
	var entries []ast.Node
	for _, inner := range seq.Values {
		if d.isNull(inner) {
			d.fail(d.pos(inner), "an empty entry", "")
			continue
		}
		entries = append(entries, inner)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(entries), len(entries)))
	k.defaults, k.required = nil, nil
	for i, inner := range entries {
		if e := v.Index(i); e.Kind() == reflect.Pointer {
			e.Set(reflect.New(e.Type().Elem())) // also when nothing more is decoded
		}
		d.node(inner, v.Index(i), k, member)
	}
}

// named decodes a mapping from names to structs, in the order of the file.
func (d *decoder) named(n ast.Node, v reflect.Value) {
	es, ok := d.entries(n)
	if !ok {
		return
	}
	elem := v.Type().Elem().Elem()
	for _, e := range es {
		p := reflect.New(elem)
		name := p.Elem().Field(shapeOf(elem).named)
		name.SetString(e.key)
		d.at[name.Addr().Interface()] = e.keyAt
		if value := d.plain(e.value); value != nil {
			d.structure(value, p.Elem(), "")
		} else {
			d.complete(e.keyAt, shapeOf(elem), nil, p.Elem(), "")
		}
		p.Elem().FieldByName("At").Set(reflect.ValueOf(e.keyAt))
		v.Set(reflect.Append(v, p))
	}
}

// mapping decodes a mapping into a Go map with string keys.
func (d *decoder) mapping(n ast.Node, v reflect.Value, k key) {
	es, ok := d.entries(n)
	if !ok {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range es {
		value := reflect.New(v.Type().Elem()).Elem()
		if value.Kind() != reflect.Interface {
			d.node(e.value, value, key{name: e.key, as: k.as}, "")
		}
		d.at[entryOf{v.Addr().Interface(), e.key}] = e.keyAt
		v.SetMapIndex(reflect.ValueOf(e.key), value)
	}
}

// bad reports a value that makes no sense.
func (d *decoder) bad(at Pos, err error) {
	var v *valueError
	if errors.As(err, &v) {
		d.fail(at, v.text, v.hint)
		return
	}
	d.fail(at, err.Error(), "")
}

// absolute makes a path of the file absolute: relative ones count from its folder.
func (d *decoder) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(filepath.Dir(d.file), path)
}
