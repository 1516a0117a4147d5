package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cairn"
)

// descriptor is what terminals and files have and buffers have not.
type descriptor interface{ Fd() uintptr }

// isTerminal reports whether a person sits at the stream.
func isTerminal(stream any) bool {
	f, ok := stream.(descriptor)
	return ok && term.IsTerminal(int(f.Fd()))
}

// await returns what f returns, or an error when the context ends first: reads of a
// terminal and writes into a pipe that nobody empties obey no context. f is then
// left behind, and ends with the process.
func await[T any](ctx context.Context, op string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	var none T
	return none, &cairn.Error{Op: op, Kind: cairn.KindCanceled, Err: ctx.Err()}
}

// consent are the options of a command that destroys.
type consent struct {
	yes    bool
	dryRun bool
}

func (c *consent) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVarP(&c.dryRun, "dry-run", "n", false, "only say what would be done")
}

// agree asks before something is destroyed. It returns false for a dry run, and an
// error when the answer is no or nobody can be asked.
func (p *program) agree(ctx context.Context, c consent, op, subject, what string) (bool, error) {
	if c.dryRun {
		return false, p.printf("would %s\n", what)
	}
	if c.yes {
		return true, nil
	}
	if !isTerminal(p.in) {
		return false, &cairn.Error{Op: op, Subject: subject, Kind: cairn.KindInvalid,
			Err: errors.New("it destroys, and nobody can be asked here"), Hint: "add --yes, or look first with --dry-run"}
	}
	p.note("This will %s.", what)
	if _, err := io.WriteString(p.errOut, "Go on? [y/N] "); err != nil {
		return false, p.wrote(err)
	}
	answer, err := await(ctx, "ask", func() (string, error) {
		text, err := bufio.NewReader(p.in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", &cairn.Error{Op: "read answer", Kind: cairn.KindIO, Err: err}
		}
		return text, nil
	})
	if err != nil {
		return false, err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return false, &cairn.Error{Op: op, Subject: subject, Kind: cairn.KindCanceled, Err: errors.New("you said no")}
	}
	return true, nil
}
