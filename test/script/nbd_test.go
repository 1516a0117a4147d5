package script_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cairn/internal/format/nbdproto"
	"cairn/internal/front/nbd/nbdclient"
)

// withExport connects to an NBD export on a unix socket, waiting for the socket to
// appear.
func withExport(socket, export string, use func(context.Context, *nbdclient.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		c, err := nbdclient.Dial(ctx, nbdclient.Options{Network: "unix", Address: socket, Export: export})
		if err == nil {
			err = use(ctx, c)
			if closing := c.Close(); err == nil {
				err = closing
			}
			return err
		}
		if _, missing := os.Stat(socket); missing == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// nbdwrite SOCKET EXPORT OFFSET SIZE SEED writes noise through NBD and flushes.
func nbdwrite(ts *testscript.TestScript, neg bool, args []string) {
	off, p := int64(number(ts, args[2])), noise(number(ts, args[3]), number(ts, args[4]))
	err := withExport(args[0], args[1], func(ctx context.Context, c *nbdclient.Client) error {
		if err := c.WriteAt(ctx, p, off, false); err != nil {
			return err
		}
		return c.Flush(ctx)
	})
	if neg {
		if err == nil {
			ts.Fatalf("the write succeeds")
		}
		return
	}
	ts.Check(err)
}

// nbdread SOCKET EXPORT FILE [read-only] reads a whole export, which is announced as
// read-only or not as asked.
func nbdread(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(withExport(args[0], args[1], func(ctx context.Context, c *nbdclient.Client) error {
		if readOnly := c.Flags()&nbdproto.ExportReadOnly != 0; readOnly != (len(args) == 4) {
			return fmt.Errorf("%s is announced as read-only: %v", args[1], readOnly)
		}
		p := make([]byte, c.Size())
		if err := c.ReadAt(ctx, p, 0); err != nil {
			return err
		}
		return os.WriteFile(ts.MkAbs(args[2]), p, 0o600)
	}))
}
