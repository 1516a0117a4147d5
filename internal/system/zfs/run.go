package zfs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"cairn/internal/mech/child"
)

// maxLine is the longest line that is read: names have 255 bytes, property values
// up to 8 KiB.
const maxLine = 64 << 10

// maxArgs is how many bytes of names one process is given; Linux takes 128 KiB in
// one argument and 2 MiB in all.
const maxArgs = 100 << 10

// run starts zfs, which prints nothing that matters, and waits for it.
func (p *Place) run(ctx context.Context, args ...string) error {
	c, err := p.start(ctx, child.Options{Args: args})
	if err != nil {
		return err
	}
	return c.Wait()
}

// lines starts zfs and hands out the lines that it prints, without their ends. An
// error of each ends the process.
func (p *Place) lines(ctx context.Context, each func(line string) error, args ...string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := p.start(ctx, child.Options{Args: args, Out: true})
	if err != nil {
		return err
	}
	in := bufio.NewScanner(c.Stdout())
	in.Buffer(make([]byte, 0, 4<<10), maxLine)
	for in.Scan() && err == nil {
		err = each(in.Text())
	}
	if err == nil && in.Err() != nil && ctx.Err() == nil {
		err = in.Err()
	}
	if err != nil {
		cancel(err)
		return errors.Join(err, abandonedOnly(c.Wait()))
	}
	return c.Wait()
}

// abandonedOnly leaves out that a process was ended, as was wanted.
func abandonedOnly(err error) error {
	if isStuck(err) {
		return err
	}
	return nil
}

// output is all that zfs prints, to a bound.
func (p *Place) output(ctx context.Context, args ...string) (string, error) {
	c, err := p.start(ctx, child.Options{Args: args, Out: true})
	if err != nil {
		return "", err
	}
	text, rerr := io.ReadAll(io.LimitReader(c.Stdout(), maxLine))
	if err := c.Wait(); err != nil {
		return "", err
	}
	return string(text), rerr
}

// chunks cuts names into groups that one process can be given.
func chunks(names []string, most int) [][]string {
	var all [][]string
	first, bytes := 0, 0
	for i, name := range names {
		if i > first && (i-first == most || bytes+len(name) > maxArgs) {
			all, first, bytes = append(all, names[first:i]), i, 0
		}
		bytes += len(name) + 1
	}
	if first < len(names) {
		all = append(all, names[first:])
	}
	return all
}

// fields splits a line of -H output.
func fields(line string, n int) ([]string, bool) {
	f := strings.Split(line, "\t")
	return f, len(f) == n
}
