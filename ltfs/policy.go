package ltfs

import (
	"path"
	"strconv"
	"strings"
)

// Policy says which files belong to the index partition: those of at most
// MaxSize bytes whose name matches one of Names (or any name when there is none).
type Policy struct {
	MaxSize uint64
	Names   []string // globs of '*' and '?', compared without regard to case
}

// ParsePolicy reads the rule syntax of LTFS tools: "size=1M/name=*.txt:*.jpg",
// with suffixes K, M and G (powers of 1024).
func ParsePolicy(rule string) (*Policy, error) {
	p := &Policy{}
	sized := false
	for part := range strings.SplitSeq(rule, "/") {
		key, value, _ := strings.Cut(part, "=")
		switch strings.ToLower(key) {
		case "size":
			size, err := parseSize(value)
			if err != nil {
				return nil, formatError("placement rule", "%q is not a size such as 512K or 1M", value)
			}
			p.MaxSize, sized = size, true
		case "name":
			for name := range strings.SplitSeq(value, ":") {
				if name == "" {
					return nil, formatError("placement rule", "%q has an empty pattern", rule)
				}
				p.Names = append(p.Names, name)
			}
		default:
			return nil, formatError("placement rule", "%q is neither size= nor name=", part)
		}
	}
	if !sized {
		return nil, formatError("placement rule", "%q lacks size=", rule)
	}
	return p, nil
}

func parseSize(s string) (uint64, error) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("KMG", s[len(s)-1]&^0x20); i >= 0 {
			shift, s = 10*(i+1), s[:len(s)-1]
		}
	}
	v, err := strconv.ParseUint(s, 10, 64-shift)
	return v << shift, err
}

// Match reports whether a file belongs to the index partition. A nil policy and
// one of size 0 match nothing.
func (p *Policy) Match(name string, size uint64) bool {
	if p == nil || p.MaxSize == 0 || size > p.MaxSize {
		return false
	}
	if len(p.Names) == 0 {
		return true
	}
	folded := strings.ToLower(name)
	for _, glob := range p.Names {
		// Only '*' and '?' are special in LTFS; path.Match knows more.
		escaped := strings.NewReplacer(`\`, `\\`, `[`, `\[`).Replace(strings.ToLower(glob))
		if ok, err := path.Match(escaped, folded); err == nil && ok {
			return true
		}
	}
	return false
}
