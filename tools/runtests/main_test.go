package main

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
)

const sample = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:12: needs fio (Debian: apt-get install fio)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p","Elapsed":0.2}
{"Action":"skip","Package":"q"}
`

func tallyOf(text string) *tally {
	t := &tally{output: map[string][]string{}, ran: map[string]bool{}}
	t.read(strings.NewReader(text), io.Discard)
	return t
}

func TestSummaryNamesSkipsAndEmptyPackages(t *testing.T) {
	var out bytes.Buffer
	status := tallyOf(sample).report(&out, nil, false, regexp.MustCompile("^$"))
	for _, want := range []string{"skipped: p TestB: needs fio", "no test ran in q", "verdict: not good", "1 passed, 0 failed, 1 skipped"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("summary lacks %q:\n%s", want, out.String())
		}
	}
	if status != 1 {
		t.Error("a package without tests passed")
	}
}

func TestNoSkipFailsOnASkipUnlessAllowed(t *testing.T) {
	one := strings.Replace(sample, `{"Action":"skip","Package":"q"}`, "", 1)
	if tallyOf(one).report(io.Discard, nil, true, regexp.MustCompile("^$")) != 1 {
		t.Error("-noskip let a skip pass")
	}
	if tallyOf(one).report(io.Discard, nil, true, regexp.MustCompile("needs fio")) != 0 {
		t.Error("an allowed skip failed the run")
	}
	if tallyOf(one).report(io.Discard, nil, false, regexp.MustCompile("^$")) != 0 {
		t.Error("a skip failed an ordinary run")
	}
}

func TestFailuresDecideTheStatus(t *testing.T) {
	failing := sample + `{"Action":"fail","Package":"p","Test":"TestC"}` + "\n"
	var out bytes.Buffer
	if tallyOf(failing).report(&out, errors.New("exit status 1"), false, regexp.MustCompile("^$")) != 1 || !strings.Contains(out.String(), "failed: p TestC") {
		t.Errorf("failure not reported:\n%s", out.String())
	}
}
