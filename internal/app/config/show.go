package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"cairn"
)

// removed stands in place of a secret.
const removed = "(removed)"

// ShowYAML is the configuration as it is in force: defaults filled in, includes
// merged, paths absolute, secrets removed. It can be read again by [Parse].
func (c *Config) ShowYAML() []byte {
	text, err := yaml.MarshalWithOptions(c.tree(), yaml.Indent(2))
	if err != nil {
		panic("config: show: " + err.Error())
	}
	return text
}

// ShowJSON is ShowYAML as JSON, with the keys in the same order.
func (c *Config) ShowJSON() []byte {
	var b bytes.Buffer
	writeJSON(&b, c.tree())
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		panic("config: show: " + err.Error())
	}
	out.WriteByte('\n')
	return out.Bytes()
}

func (c *Config) tree() yaml.MapSlice {
	merged := *c
	merged.Include = nil
	return showStruct(reflect.ValueOf(merged), "")
}

// showStruct shows the keys that belong to the member and are not empty.
func showStruct(v reflect.Value, member string) yaml.MapSlice {
	s := shapeOf(v.Type())
	if s.union {
		member = v.Field(s.find("type").index).String()
	}
	var m yaml.MapSlice
	for i := range s.keys {
		k := &s.keys[i]
		f := v.Field(k.index)
		_, hasDefault := k.defaultIn(member)
		if !k.belongsTo(member) || f.IsZero() && !hasDefault && !k.requiredIn(member) {
			continue
		}
		if k.secret {
			m = append(m, yaml.MapItem{Key: k.name, Value: removed})
			continue
		}
		if shown := showValue(f, k, member); shown != nil {
			m = append(m, yaml.MapItem{Key: k.name, Value: shown})
		}
	}
	return m
}

// showValue is nil for a struct that has nothing to show.
func showValue(v reflect.Value, k *key, member string) any {
	if l, ok := leaves[v.Type()]; ok {
		return l.show(v)
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return showDuration(x, k.as == "span")
	case slog.Level:
		return map[slog.Level]string{slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warn", slog.LevelError: "error"}[x]
	case int64:
		return showBytes(x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return showValue(v.Elem(), k, member)
	case reflect.Struct:
		if m := showStruct(v, member); len(m) > 0 {
			return m
		}
		return nil
	case reflect.Slice:
		return showList(v, k, member)
	case reflect.Map:
		return showMap(v, k)
	}
	return v.Interface()
}

func showList(v reflect.Value, k *key, member string) any {
	elem := v.Type().Elem()
	if elem.Kind() == reflect.Pointer && shapeOf(elem.Elem()).named >= 0 {
		m := yaml.MapSlice{}
		for i := range v.Len() {
			e := v.Index(i).Elem()
			m = append(m, yaml.MapItem{Key: e.Field(shapeOf(elem.Elem()).named).String(), Value: showStruct(e, "")})
		}
		return m
	}
	list := []any{}
	for i := range v.Len() {
		list = append(list, showValue(v.Index(i), &key{as: k.as}, member))
	}
	return list
}

func showMap(v reflect.Value, k *key) any {
	m := yaml.MapSlice{}
	for _, name := range slices.SortedFunc(v.Seq(), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
		m = append(m, yaml.MapItem{Key: name.String(), Value: showValue(v.MapIndex(name), &key{as: k.as}, "")})
	}
	return m
}

// showDuration writes what the key's grammar reads.
func showDuration(d time.Duration, span bool) string {
	if !span {
		return d.String()
	}
	for _, u := range []struct {
		unit string
		size time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if d != 0 && d%u.size == 0 {
			return strconv.FormatInt(int64(d/u.size), 10) + u.unit
		}
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}

func showBytes(n int64) string {
	for _, u := range []struct {
		unit string
		size int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n != 0 && n%u.size == 0 {
			return fmt.Sprintf("%d %s", n/u.size, u.unit)
		}
	}
	return fmt.Sprintf("%d B", n)
}

func showFilter(v reflect.Value) any {
	m := yaml.MapSlice{}
	for _, rule := range v.Interface().(cairn.Filter) {
		pattern := rule.Name
		if rule.Subtree {
			pattern += "<"
		}
		m = append(m, yaml.MapItem{Key: pattern, Value: rule.Keep})
	}
	return m
}

func showInterval(v reflect.Value) any {
	i := v.Interface().(Interval)
	if i.Manual {
		return "manual"
	}
	return showDuration(i.Every, true)
}

func showKeepRule(v reflect.Value) any {
	rule := v.Interface().(cairn.KeepRule)
	r := keepRule{Type: rule.Type, Count: rule.Count, Regex: rule.Regex, Negate: rule.Negate, Grid: rule.Grid,
		MaxAge: time.Duration(rule.MaxAgeSeconds) * time.Second}
	if rule.KeepSnapshotAtCursor != nil {
		r.KeepSnapshotAtCursor = *rule.KeepSnapshotAtCursor
	}
	return showStruct(reflect.ValueOf(r), "")
}

// writeJSON writes a tree of MapSlices in its order, which encoding/json cannot.
func writeJSON(b *bytes.Buffer, v any) {
	switch x := v.(type) {
	case yaml.MapSlice:
		b.WriteByte('{')
		for i, item := range x {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, item.Key)
			b.WriteByte(':')
			writeJSON(b, item.Value)
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range x {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, item)
		}
		b.WriteByte(']')
	default:
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		if err := e.Encode(x); err != nil {
			panic("config: show: " + err.Error())
		}
	}
}
