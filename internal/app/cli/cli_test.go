package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/app/cli"
)

// every calls do for each command of the tree.
func every(cmd *cobra.Command, do func(*cobra.Command)) {
	do(cmd)
	for _, c := range cmd.Commands() {
		if c.Name() != "no-help" {
			every(c, do)
		}
	}
}

func TestEveryCommandHasAShortTextAndAnExampleThatParses(t *testing.T) {
	n := 0
	every(cli.Root(), func(cmd *cobra.Command) {
		n++
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.Example == "" {
			t.Errorf("%s: short text %q, example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if why := checkExample(line); why != "" {
				t.Errorf("%s: example %q: %s", cmd.CommandPath(), line, why)
			}
		}
	})
	if n < 40 {
		t.Errorf("only %d commands were looked at", n)
	}
}

// checkExample parses one line as the shell and then the command would.
func checkExample(line string) string {
	words := shellWords(line)
	for i, w := range words {
		if w == "|" || w == ">" || w == "<" {
			words = words[:i]
			break
		}
	}
	if len(words) == 0 || words[0] != "cairn" {
		return "it does not begin with cairn"
	}
	root := cli.Root()
	cmd, rest, err := root.Find(words[1:])
	if err != nil {
		return err.Error()
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err.Error()
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err.Error()
	}
	if err := cmd.ValidateRequiredFlags(); err != nil {
		return err.Error()
	}
	return ""
}

// shellWords splits a line as a shell does, single quotes included.
func shellWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}

func TestCheckExampleFindsMistakes(t *testing.T) {
	for _, bad := range []string{"zrepl status", "cairn satus", "cairn status --nope", "cairn job run", "cairn test volumes x"} {
		if checkExample(bad) == "" {
			t.Errorf("%q passes", bad)
		}
	}
}

func TestReadingCommandsHaveJSON(t *testing.T) {
	reading := map[string]bool{"status": true, "list": true, "diff": true, "job list": true, "job history": true, "prune preview": true, "volume list": true,
		"volume show": true, "volume verify": true, "config show": true, "version": true, "test volumes": true, "check endpoint": true}
	every(cli.Root(), func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "cairn ")
		if reading[path] && cmd.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json", path)
		}
		delete(reading, path)
	})
	if len(reading) > 0 {
		t.Errorf("no such command: %v", reading)
	}
}

func TestDestroyingCommandsAskAndCanBeTriedOut(t *testing.T) {
	destroying := map[string]bool{"volume destroy": true, "volume release": true, "volume rollback": true, "prune run": true, "restore": true}
	every(cli.Root(), func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "cairn ")
		if !destroying[path] {
			return
		}
		if cmd.Flags().Lookup("yes") == nil || cmd.Flags().Lookup("dry-run") == nil {
			t.Errorf("%s has not both --yes and --dry-run", path)
		}
		delete(destroying, path)
	})
	if len(destroying) > 0 {
		t.Errorf("no such command: %v", destroying)
	}
}

func TestGuideNamesEveryCommand(t *testing.T) {
	guide, err := os.ReadFile("../../../docs/guide/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	every(cli.Root(), func(cmd *cobra.Command) {
		if cmd.HasSubCommands() || cmd.Parent().Hidden {
			return
		}
		if !bytes.Contains(guide, []byte(cmd.CommandPath())) {
			t.Errorf("docs/guide/commands.md does not name %q", cmd.CommandPath())
		}
	})
}

func TestGuideHasTheExitCodes(t *testing.T) {
	guide, err := os.ReadFile("../../../docs/guide/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(guide, []byte(cli.ExitTable())) {
		t.Errorf("docs/guide/exit-codes.md does not hold this table:\n%s", cli.ExitTable())
	}
}

func TestEveryKindHasAnExitCodeOfItsOwn(t *testing.T) {
	table := cli.ExitTable()
	for _, k := range cairn.Kinds() {
		if !strings.Contains(table, "| "+k.String()+" |") {
			t.Errorf("%v is not in the table", k)
		}
	}
	seen := map[string]bool{}
	for line := range strings.SplitSeq(strings.TrimSpace(table), "\n") {
		code := strings.TrimSpace(strings.Split(line, "|")[1])
		if seen[code] {
			t.Errorf("code %s stands twice", code)
		}
		seen[code] = true
		if cells := strings.Split(line, "|"); len(cells) != 5 || strings.TrimSpace(cells[3]) == "" {
			t.Errorf("row %q says nothing", line)
		}
	}
}

// run runs one command as main does, without a signal handler of its own.
func run(t *testing.T, in string, args ...string) (out, errOut string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Main(args, strings.NewReader(in), &o, &e)
	return o.String(), e.String(), code
}

func TestUsageErrorsHaveTheirOwnCodeAndName(t *testing.T) {
	for _, args := range [][]string{{"nope"}, {"status", "--nope"}, {"volume", "create", "x"}, {"restore", "a@b", "--to", "tape:x"}, {"serve", "x", "--listen", "y"}} {
		out, errOut, code := run(t, "", args...)
		if code != 2 || out != "" || strings.Count(errOut, "\n") != 1 || !strings.HasPrefix(errOut, "cairn: ") || !strings.Contains(errOut, "--help") {
			t.Errorf("%q: code %d, out %q, err %q", args, code, out, errOut)
		}
	}
}

func TestHelpIsNoError(t *testing.T) {
	every(cli.Root(), func(cmd *cobra.Command) {
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		out, errOut, code := run(t, "", args...)
		if code != 0 || errOut != "" || !strings.Contains(out, "Examples:") {
			t.Errorf("%q: code %d, out %q, err %q", args, code, out, errOut)
		}
	})
}

func TestCanceledContextEndsACommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	file := filepath.Join(dir, "cairn.yml")
	if err := os.WriteFile(file, []byte("global: {state: "+dir+", control: {sockpath: "+dir+"/control}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CAIRN_CONFIG", file)
	var out bytes.Buffer
	if err := cli.Run(ctx, []string{"job", "list"}, strings.NewReader(""), &out, &out); err == nil {
		t.Errorf("succeeds: %s", out.String())
	}
}
