// Command runtests runs `go test` over packages and ends by saying what passed,
// what failed, and what was skipped and why; its last line is the verdict.
//
// A package without a test fails the run: every package is tested. With -noskip a
// skip fails it too, unless its reason matches -mayskip; that is how a machine
// that has every tool makes sure that nothing was left out.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"sort"
	"strings"
	"syscall"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

// tally is what a run has shown so far.
type tally struct {
	output  map[string][]string // package, or package and test → lines
	passed  int
	failed  []string
	skipped []string // "package Test: reason"
	ran     map[string]bool
	empty   []string
}

func main() {
	race := flag.Bool("race", false, "use the race detector")
	noSkip := flag.Bool("noskip", false, "a skipped test is a failure")
	maySkip := flag.String("mayskip", "^$", "with -noskip: reasons that are allowed")
	run := flag.String("run", "", "as in go test")
	timeout := flag.String("timeout", "15m", "per package")
	flag.Parse()
	allowed, err := regexp.Compile(*maySkip)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests: -mayskip:", err)
		os.Exit(2)
	}
	args := []string{"test", "-json", "-timeout", *timeout}
	if *race {
		args = append(args, "-race")
	}
	if *run != "" {
		args = append(args, "-run", *run)
	}
	t, runErr := runGo(append(args, flag.Args()...))
	os.Exit(t.report(os.Stdout, runErr, *noSkip, allowed))
}

// runGo starts go test and reads its events to the end. A terminal's Ctrl-C
// reaches the children by itself; runtests only waits for them.
func runGo(args []string) (*tally, error) {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t := &tally{output: map[string][]string{}, ran: map[string]bool{}}
	if err := cmd.Start(); err != nil {
		return t, err
	}
	t.read(out, os.Stdout)
	return t, cmd.Wait()
}

func (t *tally) read(r io.Reader, w io.Writer) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(w, lines.Text()) // a build error speaks for itself
			continue
		}
		t.add(e, w)
	}
}

func (t *tally) add(e event, w io.Writer) {
	key := strings.TrimSpace(e.Package + " " + e.Test)
	switch {
	case e.Action == "output" || e.Action == "build-output":
		t.output[key] = append(t.output[key], e.Output)
		return
	case e.Test == "":
		t.addPackage(e, w)
		return
	case e.Action == "pass":
		t.passed++
		t.ran[e.Package] = true
	case e.Action == "fail":
		t.failed = append(t.failed, key)
		t.ran[e.Package] = true
		fmt.Fprint(w, strings.Join(t.output[key], ""))
	case e.Action == "skip":
		t.skipped = append(t.skipped, key+": "+reason(t.output[key]))
		t.ran[e.Package] = true
	default:
		return
	}
	delete(t.output, key)
}

func (t *tally) addPackage(e event, w io.Writer) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(w, "ok    %-44s %6.1f s\n", e.Package, e.Elapsed)
		if !t.ran[e.Package] {
			t.empty = append(t.empty, e.Package)
		}
	case "skip":
		t.empty = append(t.empty, e.Package)
	case "fail":
		fmt.Fprintf(w, "FAIL  %-44s %6.1f s\n%s", e.Package, e.Elapsed, strings.Join(t.output[e.Package], ""))
		t.failed = append(t.failed, e.Package)
	}
}

var location = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// reason is the text that a test gave to Skip.
func reason(output []string) string {
	for _, line := range output {
		if location.MatchString(line) {
			return strings.TrimSpace(location.ReplaceAllString(line, ""))
		}
	}
	return "no reason given"
}

// skips words what was skipped: tests of one package with one reason share a line.
func (t *tally) skips() []string {
	sort.Strings(t.skipped)
	names := map[string][]string{}
	var order []string
	for _, s := range t.skipped {
		name, why, _ := strings.Cut(s, ": ")
		pkg, test, _ := strings.Cut(name, " ")
		key := pkg + "\x00" + why
		if names[key] == nil {
			order = append(order, key)
		}
		names[key] = append(names[key], test)
	}
	lines := make([]string, 0, len(order))
	for _, key := range order {
		pkg, why, _ := strings.Cut(key, "\x00")
		line := pkg + " " + names[key][0]
		if more := len(names[key]) - 1; more > 0 {
			line += fmt.Sprintf(" and %d more", more)
		}
		lines = append(lines, line+": "+why)
	}
	return lines
}

// report prints the summary and returns the exit status.
func (t *tally) report(w io.Writer, runErr error, noSkip bool, allowed *regexp.Regexp) int {
	status := 0
	if runErr != nil || len(t.failed) > 0 {
		status = 1
	}
	for _, s := range t.skips() {
		fmt.Fprintln(w, "skipped:", s)
		if noSkip && !allowed.MatchString(s) {
			fmt.Fprintln(w, "         and nothing may be skipped here")
			status = 1
		}
	}
	for _, p := range t.empty {
		fmt.Fprintln(w, "no test ran in", p)
		status = 1
	}
	for _, f := range t.failed {
		fmt.Fprintln(w, "failed:", f)
	}
	if status != 0 {
		fmt.Fprintln(w, "verdict: not good")
	} else {
		fmt.Fprintln(w, "verdict: good")
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.passed, len(t.failed), len(t.skipped))
	return status
}
