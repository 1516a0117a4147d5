package config

import (
	"reflect"
	"slices"
	"strings"
	"sync"
)

// keyField is the pseudo key of a struct field that takes the key of its entry in
// a mapping of named things.
const keyField = ",key"

// A key is one field of a grammar struct, read from its tags:
//
//	yaml      the key; "-" is not part of the grammar
//	for       members of the union the key belongs to; absent means all
//	required  members in which it must stand; "*" is all it belongs to
//	default   value when absent; "10s local=2s" differs for one member
//	values    the allowed words
//	as        the meaning of a plain type: path, span, orzero, size, rate, address, …
//	later     legal, but not built in this version: what to call it; "x=what" only
//	          for the value x
//	instead   what to write instead of what is not built in
//	secret    never shown
//	doc       one sentence for people and for the schema
type key struct {
	name     string
	index    int
	typ      reflect.Type
	members  []string
	required []string
	defaults map[string]string // "" is every member without an own
	values   []string
	as       string
	later    map[string]string // value → what is missing; "" is any value
	instead  string
	secret   bool
	doc      string
}

func (k *key) belongsTo(member string) bool {
	return len(k.members) == 0 || member == "" || slices.Contains(k.members, member)
}

func (k *key) requiredIn(member string) bool {
	return slices.Contains(k.required, "*") || slices.Contains(k.required, member)
}

func (k *key) defaultIn(member string) (string, bool) {
	if v, ok := k.defaults[member]; ok {
		return v, true
	}
	v, ok := k.defaults[""]
	return v, ok
}

// A shape is the grammar of one struct.
type shape struct {
	keys  []key
	union bool // has a key "type" that decides which other keys belong
	named int  // index of the field that takes the entry's key, -1 none
}

func (s *shape) find(name string) *key {
	for i := range s.keys {
		if s.keys[i].name == name {
			return &s.keys[i]
		}
	}
	return nil
}

// names lists the keys that belong to the member.
func (s *shape) names(member string) []string {
	var names []string
	for i := range s.keys {
		if s.keys[i].belongsTo(member) {
			names = append(names, s.keys[i].name)
		}
	}
	return names
}

var shapes sync.Map // reflect.Type → *shape; a cache of what the tags say

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{named: -1}
	for i := range t.NumField() {
		f := t.Field(i)
		switch name := f.Tag.Get("yaml"); name {
		case "-", "":
		case keyField:
			s.named = i
		default:
			s.keys = append(s.keys, keyOf(f, i, name))
			s.union = s.union || name == "type"
		}
	}
	shapes.Store(t, s)
	return s
}

func keyOf(f reflect.StructField, index int, name string) key {
	k := key{
		name: name, index: index, typ: f.Type,
		members:  strings.Fields(f.Tag.Get("for")),
		required: strings.Fields(f.Tag.Get("required")),
		values:   strings.Fields(f.Tag.Get("values")),
		as:       f.Tag.Get("as"),
		instead:  f.Tag.Get("instead"),
		secret:   f.Tag.Get("secret") != "",
		doc:      f.Tag.Get("doc"),
	}
	if d, ok := f.Tag.Lookup("default"); ok {
		k.defaults = splitDefaults(d)
	}
	if l, ok := f.Tag.Lookup("later"); ok {
		value, what, only := strings.Cut(l, "=")
		if !only {
			value, what = "", l
		}
		k.later = map[string]string{value: what}
	}
	return k
}

// splitDefaults reads "10s local=2s": words with '=' are a member's own default,
// the others together are everyone's.
func splitDefaults(tag string) map[string]string {
	defaults := map[string]string{}
	var general []string
	for _, word := range strings.Fields(tag) {
		if member, value, own := strings.Cut(word, "="); own {
			defaults[member] = value
		} else {
			general = append(general, word)
		}
	}
	defaults[""] = strings.Join(general, " ")
	return defaults
}
