// Package cli is the command line: one file per command or family of commands,
// each turning arguments into a call of a verb, a place or the daemon, and results
// into text or JSON.
//
// It promises that every error is one line on the standard error output, that
// exit codes follow the one table in exit.go, that standard output carries only
// what was asked for (so it can be piped), that what destroys asks first, and that
// a signal ends any command in bounded time, a second one at once. It works with a
// running daemon and without one: volumes that the daemon hosts are reached through
// it. What can go wrong is what the verbs say; the command adds no retries.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cairn"
)

// Main runs one command and returns its exit code.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from here on a second signal has its default effect
	err := Run(ctx, args, in, out, errOut)
	if err != nil {
		said := oneLine(err.Error())
		if ctx.Err() != nil {
			said = strings.ReplaceAll(said, context.Canceled.Error(), "interrupted") // Go's words for it
		}
		_, _ = fmt.Fprintln(errOut, "cairn: "+said) // nowhere else to say it
	}
	return exitCode(err, ctx.Err() != nil)
}

// Run runs one command until it ends or the context does.
func Run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	p := &program{in: in, out: out, errOut: errOut}
	root := p.root()
	root.SetArgs(zreplArgs(args))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if closing := p.close(); err == nil && closing != nil {
		return closing
	}
	var failed *runError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed):
		return failed.err
	}
	return &usageError{err: err, command: cmd.CommandPath()}
}

// oneLine keeps a message that quotes others on the one line that is promised.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// runError marks an error that came out of a command that ran, as opposed to one
// in how it was called.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }
func (e *runError) Unwrap() error { return e.err }

// usageError is a mistake in how a command was called.
type usageError struct {
	err     error
	command string
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v (see '%s --help')", e.err, e.command)
}

// badUsage is for mistakes that only the command itself can see.
func badUsage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), command: cmd.CommandPath()}
}

// body is what a command does.
type body func(ctx context.Context, cmd *cobra.Command, args []string) error

// run adapts a command's body to cobra and marks its errors.
func run(b body) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := b(cmd.Context(), cmd, args); err != nil {
			return &runError{err}
		}
		return nil
	}
}

const (
	groupSee     = "see"
	groupProtect = "protect"
	groupVolumes = "volumes"
	groupTape    = "tape"
	groupSetUp   = "setup"
)

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cairn",
		Short: "Capture, replicate, prune and restore versions of disks",
		Long: "Cairn captures versions of block volumes while they are in use, replicates them to other\n" +
			"places, prunes them by policy and restores them. It works with and without a running daemon.",
		Example: "  cairn status",
		Args:    known,
		RunE:    help,

		DisableFlagsInUseLine: true,
		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableAutoGenTag:     true,
	}
	root.PersistentFlags().StringVar(&p.configPath, "config", "", "configuration `FILE` (default: $CAIRN_CONFIG, then the usual places)")
	root.AddGroup(
		&cobra.Group{ID: groupSee, Title: "See:"},
		&cobra.Group{ID: groupProtect, Title: "Protect:"},
		&cobra.Group{ID: groupVolumes, Title: "Volumes:"},
		&cobra.Group{ID: groupTape, Title: "Tape:"},
		&cobra.Group{ID: groupSetUp, Title: "Set up:"})
	p.addCommands(root)
	nameArguments(root)
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help", GroupID: groupSetUp})
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// known refuses a word that is none of the command's members, and names the one
// that was probably meant.
func known(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 1
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	if meant := cmd.SuggestionsFor(args[0]); len(meant) > 0 {
		err = fmt.Errorf("%w, did you mean %q?", err, meant[0])
	}
	return err
}

// family makes a command that only groups others; called bare it prints its help.
func family(group, use, short, example string, members ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, GroupID: group, Args: known, RunE: help, DisableFlagsInUseLine: true}
	cmd.AddCommand(members...)
	return cmd
}

// nameArguments lets the commands below cmd answer a wrong number of arguments with
// the ones they take.
func nameArguments(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		nameArguments(sub)
		count := sub.Args
		if sub.HasSubCommands() || count == nil {
			continue
		}
		sub.Args = func(cmd *cobra.Command, args []string) error {
			err := count(cmd, args)
			if err == nil || len(cmd.ValidArgs) > 0 && len(args) == 1 {
				return err
			}
			return fmt.Errorf("wrong number of arguments (%d) for '%s %s'", len(args), cmd.Parent().CommandPath(), cmd.Use)
		}
	}
}

// zreplArgs translates the spellings of zrepl that are not commands of ours.
func zreplArgs(args []string) []string {
	for i, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		if a == "configcheck" {
			return append(append(append([]string{}, args[:i]...), "config", "check"), args[i+1:]...)
		}
		return args
	}
	return args
}

func invalid(op, subject, hint string, err error) error {
	return &cairn.Error{Op: op, Subject: subject, Kind: cairn.KindInvalid, Err: err, Hint: hint}
}

// Root is the tree of commands, for tools that look at it.
func Root() *cobra.Command { return (&program{}).root() }
