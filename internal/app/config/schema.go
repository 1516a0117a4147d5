package config

import (
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"time"
)

// Schema is a JSON schema (draft 2020-12) of the main file, made from the tags of
// the structs. Editors use it to complete and to check. It knows keys, types and
// allowed words; what only [Load] can see it does not know.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Config](), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Cairn configuration"
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("config: schema: " + err.Error())
	}
	return append(text, '\n')
}

var filterSchema = map[string]any{
	"type": "object", "additionalProperties": map[string]any{"type": "boolean"},
}

// schemaOf describes a struct as member; a union is one alternative per member.
func schemaOf(t reflect.Type, member string) map[string]any {
	s := shapeOf(t)
	if !s.union {
		return objectSchema(s, member)
	}
	var alternatives []any
	for _, m := range s.find("type").values {
		o := objectSchema(s, m)
		o["properties"].(map[string]any)["type"] = map[string]any{"const": m, "description": s.find("type").doc}
		alternatives = append(alternatives, o)
	}
	return map[string]any{"oneOf": alternatives}
}

func objectSchema(s *shape, member string) map[string]any {
	properties, required := map[string]any{}, []string{}
	for i := range s.keys {
		k := &s.keys[i]
		if !k.belongsTo(member) {
			continue
		}
		p := valueSchema(k.typ, k, member)
		p["description"] = k.doc
		if what, later := k.later[""]; later {
			p["description"] = k.doc + " (" + what + ": not in this version)"
		}
		if d, ok := k.defaultIn(member); ok {
			p["default"] = d
		}
		properties[k.name] = p
		if k.requiredIn(member) {
			required = append(required, k.name)
		}
	}
	o := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

// scalarTypes lists what a text may look like in YAML: "4096" is a number there.
var scalarTypes = []string{"string", "number"}

func valueSchema(t reflect.Type, k *key, member string) map[string]any {
	if l, ok := leaves[t]; ok {
		return copyOf(l.schema)
	}
	switch t {
	case reflect.TypeFor[time.Duration]():
		return map[string]any{"type": "string"}
	case reflect.TypeFor[slog.Level]():
		return map[string]any{"enum": []string{"debug", "info", "warn", "error"}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return valueSchema(t.Elem(), k, member)
	case reflect.Struct:
		return schemaOf(t, member)
	case reflect.Slice:
		if e := t.Elem(); e.Kind() == reflect.Pointer && shapeOf(e.Elem()).named >= 0 {
			return map[string]any{"type": "object", "additionalProperties": schemaOf(e.Elem(), "")}
		}
		return map[string]any{"type": "array", "items": valueSchema(t.Elem(), &key{as: k.as}, member)}
	case reflect.Map:
		return map[string]any{"type": "object"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	}
	if len(k.values) > 0 {
		return map[string]any{"enum": k.values}
	}
	return map[string]any{"type": scalarTypes}
}

func copyOf(m map[string]any) map[string]any {
	c := make(map[string]any, len(m)+1)
	for k, v := range m {
		c[k] = v
	}
	return c
}

// Keys lists every key of the grammar by its path, as in jobs.connect.address, for
// the test that holds the guide against the grammar.
func Keys() map[string]string {
	keys := map[string]string{}
	collectKeys(reflect.TypeFor[Config](), "", keys)
	return keys
}

func collectKeys(t reflect.Type, path string, keys map[string]string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if l, ok := leaves[t]; ok && l.grammar != nil {
		t = l.grammar
	} else if ok || t.Kind() != reflect.Struct {
		return
	}
	for _, k := range shapeOf(t).keys {
		name := strings.TrimPrefix(path+"."+k.name, ".")
		keys[name] = k.doc
		collectKeys(k.typ, name, keys)
	}
}
