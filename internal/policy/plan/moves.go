package plan

import (
	"fmt"
	"slices"
	"strings"

	"cairn"
)

// Renamed says what is done about a dataset that the receiver has under another
// name.
type Renamed uint8

// The choices; the zero value renames it there.
const (
	Follow Renamed = iota
	Refuse         // it is a conflict
)

// ParseRenamed reads the word of the configuration; empty is follow.
func ParseRenamed(word string) (Renamed, error) {
	switch word {
	case "", "follow":
		return Follow, nil
	case "fail":
		return Refuse, nil
	}
	return 0, &cairn.Error{Op: "use", Subject: fmt.Sprintf("renamed %q", word), Kind: cairn.KindConfig, Hint: "write follow or fail"}
}

// Stranger is a dataset that the receiver has and the sender does not, under its
// name.
type Stranger struct {
	Name   string
	Newest cairn.GUID // of its newest snapshot
}

// Move is a dataset that the sender has under one name and the receiver under
// another.
type Move struct {
	From, To string   // the receiver's name, and the sender's
	Rename   string   // the receiver's name after the moves in After; empty: it moves along with one of them
	After    []string // To of the moves that have to be made before it
	Unsafe   string   // why it is not to be renamed, one sentence; "" when it may be
}

// Moves finds renamed datasets: the versions of one that the receiver lacks include
// the newest snapshot of one that the sender lacks. missing are the sender's, with
// their versions, in byte order of names; shared are the names that both have, in
// byte order. The result is in the order of To.
func Moves(strangers []Stranger, missing []*cairn.Listing, shared []string) []Move {
	byGUID := map[cairn.GUID][]string{}
	for _, s := range strangers {
		byGUID[s.Newest] = append(byGUID[s.Newest], s.Name)
	}
	found, claims := make([][]string, len(missing)), map[string]int{}
	for i, l := range missing {
		for _, v := range l.Versions {
			for _, name := range byGUID[v.GUID] {
				if !slices.Contains(found[i], name) {
					found[i] = append(found[i], name)
					claims[name]++
				}
			}
		}
	}
	var moves, done []Move // done: the safe ones, by the names that the receiver had
	for i, l := range missing {
		if len(found[i]) == 0 {
			continue
		}
		m := Move{From: found[i][0], To: l.Dataset.Name}
		m.Unsafe = unsafe(m, found[i], claims, shared)
		if m.Unsafe != "" {
			moves = append(moves, m)
			continue
		}
		for _, d := range done {
			if below(m.From, d.From) || below(d.From, m.From) {
				m.After = append(m.After, d.To)
			}
		}
		done = append(done, m)
		if now := carried(done[:len(done)-1], m.From); now != m.To {
			m.Rename = now
		}
		moves = append(moves, m)
	}
	return moves
}

func below(name, above string) bool { return strings.HasPrefix(name, above+"/") }

// unsafe says what speaks against a move.
func unsafe(m Move, found []string, claims map[string]int, shared []string) string {
	if len(found) > 1 {
		return fmt.Sprintf("the receiver has its history twice, as %s and as %s", found[0], found[1])
	}
	if claims[m.From] > 1 {
		return fmt.Sprintf("%d datasets of the sender have the history of %s", claims[m.From], m.From)
	}
	if below(m.To, m.From) {
		return fmt.Sprintf("it would lie below itself, at %s", m.To)
	}
	if i, _ := slices.BinarySearch(shared, m.From+"/"); i < len(shared) && below(shared[i], m.From) {
		return fmt.Sprintf("the receiver has %s below it, which the sender has under that name", shared[i])
	}
	return ""
}

// carried is the name that a dataset has after the moves: that of the nearest one
// above it moved last, or went along.
func carried(done []Move, name string) string {
	best := -1
	for i, m := range done {
		if below(name, m.From) && (best < 0 || len(m.From) > len(done[best].From)) {
			best = i
		}
	}
	if best < 0 {
		return name
	}
	return done[best].To + name[len(done[best].From):]
}
