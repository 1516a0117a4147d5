package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMain lets the test binary stand in for cairn.
func TestMain(m *testing.M) {
	if os.Getenv("CAIRN_TEST_MAIN") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The program passes its arguments on and ends with the command's exit code.
func TestArgumentsAndExitCode(t *testing.T) {
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"config schema": {0, "\"$schema\""},
		"no-such":       {2, "unknown command"},
	} {
		cmd := exec.Command(os.Args[0], strings.Fields(args)...)
		cmd.Env = append(os.Environ(), "CAIRN_TEST_MAIN=1")
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want.code || !strings.Contains(string(out), want.text) {
			t.Errorf("cairn %s: exit code %d, output %.200s", args, code, out)
		}
	}
}
