package cairn

import (
	"sort"
	"strings"
)

// FilterRule is one line of a filter: a dataset name, or a subtree when Subtree
// is set ("" with Subtree is everything).
type FilterRule struct {
	Name    string
	Subtree bool // the name and all below it
	Keep    bool
}

// Filter selects datasets by zrepl's rules: an exact rule beats a subtree rule, a
// longer subtree beats a shorter one, and what no rule matches is not selected.
// The zero Filter selects nothing; All selects everything.
type Filter []FilterRule

// All is the filter that selects every dataset.
var All = Filter{{Subtree: true, Keep: true}}

// ParseFilter reads zrepl's map form: "tank<" is a subtree, "<" is everything,
// "tank" is exactly that dataset.
func ParseFilter(rules map[string]bool) (Filter, error) {
	f := make(Filter, 0, len(rules))
	for pattern, keep := range rules {
		name, subtree := strings.CutSuffix(pattern, "<")
		if name != "" || !subtree {
			if err := CheckDatasetName(name); err != nil {
				return nil, err
			}
		}
		f = append(f, FilterRule{Name: name, Subtree: subtree, Keep: keep})
	}
	sort.Slice(f, func(i, j int) bool {
		if f[i].Name != f[j].Name {
			return f[i].Name < f[j].Name
		}
		return !f[i].Subtree
	})
	return f, nil
}

// Match reports whether the filter selects the dataset.
func (f Filter) Match(dataset string) bool {
	keep, best := false, -1
	for _, r := range f {
		switch {
		case !r.Subtree:
			if r.Name == dataset {
				return r.Keep
			}
		case r.Name == "" || r.Name == dataset || strings.HasPrefix(dataset, r.Name+"/"):
			if len(r.Name) > best {
				best, keep = len(r.Name), r.Keep
			}
		}
	}
	return keep
}
