package config

import (
	"fmt"
	"slices"
	"strings"

	"cairn"
)

// Problem is one thing that is wrong with a configuration file.
type Problem struct {
	At          Pos
	Text        string
	Hint        string // what to write instead; may be empty
	Unsupported bool   // legal, but not built in this version
}

// String renders "FILE:LINE:COLUMN: TEXT (HINT)".
func (p Problem) String() string {
	s := p.At.String() + ": " + p.Text
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// String renders "FILE:LINE:COLUMN", without what is not known.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Problems is everything that is wrong with a configuration, in the order of the
// files' lines.
type Problems []Problem

// Error renders one problem on the same line, several on a line each.
func (ps Problems) Error() string {
	if len(ps) == 1 {
		return ps[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems", len(ps))
	for _, p := range ps {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// maxProblems keeps a report readable when everything is wrong.
const maxProblems = 50

// asError is nil without problems.
func (ps Problems) asError(file string) error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.At.File != b.At.File {
			return strings.Compare(a.At.File, b.At.File)
		}
		if a.At.Line != b.At.Line {
			return a.At.Line - b.At.Line
		}
		return a.At.Column - b.At.Column
	})

	ps = slices.Compact(ps)
	kind := cairn.KindUnsupported
	for _, p := range ps {
		if !p.Unsupported {
			kind = cairn.KindConfig
		}
	}
	if len(ps) > maxProblems {
		ps = append(ps[:maxProblems:maxProblems], Problem{At: Pos{File: file}, Text: "and more"})
	}
	return &cairn.Error{Op: "use configuration", Kind: kind, Err: ps}
}

// nearest suggests the word that was probably meant: the one with the fewest edits,
// at most a third of its length. Empty when there is none.
func nearest(word string, words []string) string {
	best, bestEdits := "", 1+max(1, len(word)/3)
	for _, w := range words {
		if e := edits(strings.ToLower(word), w); e < bestEdits {
			best, bestEdits = w, e
		}
	}
	return best
}

// edits counts insertions, deletions, replacements and swaps of neighbours that
// turn a into b.
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// oneOf is the hint that lists words, led by the one probably meant.
func oneOf(word string, words []string) string {
	if n := nearest(word, words); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	return "one of: " + strings.Join(words, ", ")
}
