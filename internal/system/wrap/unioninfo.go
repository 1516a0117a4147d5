package wrap

import (
	"maps"
	"slices"

	"cairn"
)

// info is what the union says of itself: that of its first side, with the formats
// of all.
func (u *union) info() cairn.Info {
	if len(u.sides) == 0 {
		return cairn.Info{}
	}
	info := u.sides[0].Endpoint.Info
	info.Sends, info.Accepts = maps.Clone(info.Sends), maps.Clone(info.Accepts)
	for _, s := range u.sides[1:] {
		info.Sends = merged(info.Sends, s.Endpoint.Info.Sends)
		info.Accepts = merged(info.Accepts, s.Endpoint.Info.Accepts)
	}
	info.Several, info.Clones = u.several(), u.clones()
	return info
}

// clones are the kinds of which all sides that know the kind keep clones as clones.
func (u *union) clones() []cairn.DatasetKind {
	keeps := map[cairn.DatasetKind]bool{}
	for _, s := range u.sides {
		i := s.Endpoint.Info
		for kind := range merged(maps.Clone(i.Sends), i.Accepts) {
			before, known := keeps[kind]
			keeps[kind] = (before || !known) && slices.Contains(i.Clones, kind)
		}
	}
	maps.DeleteFunc(keeps, func(_ cairn.DatasetKind, all bool) bool { return !all })
	return slices.Sorted(maps.Keys(keeps))
}

// several is, for each kind, what all sides that know the kind take in one stream.
func (u *union) several() map[cairn.DatasetKind]int {
	least := map[cairn.DatasetKind]int{}
	for _, s := range u.sides {
		i := s.Endpoint.Info
		for kind := range merged(maps.Clone(i.Sends), i.Accepts) {
			if n, known := least[kind]; !known || i.Several[kind] < n {
				least[kind] = i.Several[kind]
			}
		}
	}
	maps.DeleteFunc(least, func(_ cairn.DatasetKind, n int) bool { return n == 0 })
	return least
}

func merged(into, from map[cairn.DatasetKind][]cairn.Format) map[cairn.DatasetKind][]cairn.Format {
	if into == nil {
		into = map[cairn.DatasetKind][]cairn.Format{}
	}
	for kind, formats := range from {
		for _, f := range formats {
			if !slices.Contains(into[kind], f) {
				into[kind] = append(slices.Clip(into[kind]), f)
			}
		}
	}
	return into
}
