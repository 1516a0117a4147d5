package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"cairn/internal/mech/blockio"
)

// line is one record of the log: exactly one of the pointers is set.
type line struct {
	Run   uint64      `json:"run"`
	Begin *Run        `json:"begin,omitempty"`
	Verb  *VerbRecord `json:"verb,omitempty"`
	Step  *Step       `json:"step,omitempty"`
	End   *end        `json:"end,omitempty"`
}

// end closes a run.
type end struct {
	State   State  `json:"state"`
	Ended   string `json:"ended"` // RFC 3339 with nanoseconds
	Omitted int    `json:"omitted,omitempty"`
	Failure
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const checksumBytes = 8 // hex digits

// encode renders "CHECKSUM SP JSON LF".
func encode(l line) ([]byte, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	out := fmt.Appendf(nil, "%08x ", crc32.Checksum(text, castagnoli))
	return append(append(out, text...), '\n'), nil
}

// decode reads what encode wrote, without the line feed; ok is false for anything
// else.
func decode(text []byte) (l line, ok bool) {
	if len(text) <= checksumBytes || text[checksumBytes] != ' ' {
		return l, false
	}
	body := text[checksumBytes+1:]
	if string(text[:checksumBytes]) != fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) {
		return l, false
	}
	return l, json.Unmarshal(body, &l) == nil
}

// scan decodes a log. good is the length up to the end of the last whole record,
// bad the number of lines that are none.
func scan(log []byte) (lines []line, good int64, bad int) {
	offset := 0
	for text := range bytes.Lines(log) {
		offset += len(text)
		body, whole := bytes.CutSuffix(text, []byte{'\n'})
		if l, ok := decode(body); ok && whole {
			lines = append(lines, l)
			good = int64(offset)
			continue
		}
		bad++
	}
	return lines, good, bad
}

// runsOf puts records together to runs, oldest first. Records that belong to no
// run are left out: their run's beginning was rotated away or torn.
func runsOf(lines []line) []Run {
	var runs []Run
	var open *Run
	for _, l := range lines {
		switch {
		case l.Begin != nil:
			runs = append(runs, *l.Begin)
			open = &runs[len(runs)-1]
			open.State = Running
		case open == nil || open.ID != l.Run:
		case l.Verb != nil:
			open.Verbs = append(open.Verbs, *l.Verb)
		case l.Step != nil:
			open.Steps = append(open.Steps, *l.Step)
		case l.End != nil:
			l.End.close(open)
			open = nil
		}
	}
	for i := range runs {
		if last := i == len(runs)-1; runs[i].State == Running && !last {
			runs[i].State = Interrupted
		}
	}
	return runs
}

// readAll reads a whole file; a missing one is empty.
func readAll(fsys blockio.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	text := make([]byte, size)
	if size == 0 {
		return nil, nil
	}
	n, err := f.ReadAt(text, 0)
	if n == len(text) {
		err = nil
	}
	return text[:n], err
}
