package vm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrNoVerdict is in the error of a machine that ended without telling how its
// script did, or told two different things.
var ErrNoVerdict = errors.New("no verdict")

// Verdict is how a script ended.
type Verdict struct {
	Exit   int     // the script's exit status
	Uptime float64 // seconds since the guest's kernel started
	Output string  // what the script printed, without the trailer
}

// trailer begins the line that ends the output: "@@EXIT STATUS UPTIME".
const trailer = "\n@@EXIT "

// judge reads the trailer and compares it with the emulator's exit status, into
// which the exit device folds the script's as status*2+1; it has room for seven
// bits, so a higher status arrives as 127.
func judge(output string, emulator int) (Verdict, error) {
	at := strings.LastIndex(output, trailer)
	if at < 0 {
		return Verdict{Output: output}, fmt.Errorf("%w: the output has no trailer, and the emulator ended with %d", ErrNoVerdict, emulator)
	}
	v := Verdict{Output: output[:at]}
	fields := strings.Fields(output[at+len(trailer):])
	if len(fields) != 2 {
		return v, fmt.Errorf("%w: the trailer has %d fields", ErrNoVerdict, len(fields))
	}
	var errExit, errUptime error
	v.Exit, errExit = strconv.Atoi(fields[0])
	v.Uptime, errUptime = strconv.ParseFloat(fields[1], 64)
	if err := errors.Join(errExit, errUptime); err != nil {
		return v, fmt.Errorf("%w: the trailer reads %q", ErrNoVerdict, fields)
	}
	if want := min(v.Exit, 127)*2 + 1; emulator != want {
		return v, fmt.Errorf("%w: the trailer tells status %d, but the emulator ended with %d instead of %d", ErrNoVerdict, v.Exit, emulator, want)
	}
	return v, nil
}

// Case is the result of one test of a Go test program.
type Case struct {
	Name   string
	Status string // PASS, FAIL or SKIP
	Log    string // what it printed
}

// Cases reads the output of a Go test program run with -test.v. Subtests are
// part of their test's log. A test that began and did not end has the status FAIL:
// the program died in it.
func Cases(output string) []Case {
	var cases []Case
	begun := map[string]int{}
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if name, is := strings.CutPrefix(line, "=== RUN   "); is && !strings.Contains(name, "/") {
			begun[name] = len(cases)
			cases = append(cases, Case{Name: name, Status: "FAIL", Log: "the program ended in this test\n"})
			continue
		}
		if status, name, is := ended(line); is {
			if i, known := begun[name]; known {
				cases[i].Status = status
				cases[i].Log = strings.TrimPrefix(cases[i].Log, "the program ended in this test\n") + line + "\n"
			}
			continue
		}
		if len(cases) > 0 {
			cases[len(cases)-1].Log += line + "\n"
		}
	}
	return cases
}

// ended reads "--- PASS: TestX (0.01s)".
func ended(line string) (status, name string, is bool) {
	rest, is := strings.CutPrefix(line, "--- ")
	if !is {
		return "", "", false
	}
	status, rest, is = strings.Cut(rest, ": ")
	name, _, cut := strings.Cut(rest, " (")
	return status, name, is && cut
}
