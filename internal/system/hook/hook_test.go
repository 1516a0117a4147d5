//go:build unix

package hook_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/hook"
)

func script(t *testing.T, text string) (hook.Command, *bytes.Buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	return hook.Command{Path: path, Timeout: time.Minute, Log: slog.New(slog.NewTextHandler(log, nil))}, log
}

func TestHookLearnsWhatIsCaptured(t *testing.T) {
	c, log := script(t, `echo "$ZREPL_HOOKTYPE $ZREPL_FS $ZREPL_SNAPNAME $ZREPL_DRYRUN $ZREPL_TIMEOUT"; echo "$CAIRN_HOOK $CAIRN_DATASET $CAIRN_VERSION" >&2; printf end`)
	for after, want := range map[bool]string{false: "pre_snapshot", true: "post_snapshot"} {
		log.Reset()
		if err := c.Run(t.Context(), after, "tank/db", "@c_1"); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{`level=INFO msg="` + want + ` tank/db c_1 false 60"`, `level=WARN msg="` + want + ` tank/db @c_1"`, "level=INFO msg=end"} {
			if !strings.Contains(log.String(), line) {
				t.Errorf("the log lacks %s:\n%s", line, log)
			}
		}
	}
}

func TestHookThatFails(t *testing.T) {
	c, log := script(t, "echo 'database is down' >&2; exit 3")
	err := c.Run(t.Context(), false, "a", "@x")
	if err == nil || !strings.Contains(err.Error(), "exit status 3: database is down") || !strings.Contains(log.String(), "database is down") {
		t.Errorf("%v\n%s", err, log)
	}
	c, _ = script(t, "sleep 60 & wait")
	c.Timeout = 100 * time.Millisecond
	if err := c.Run(t.Context(), false, "a", "@x"); !errors.Is(err, cairn.KindStuck) || !strings.Contains(err.Error(), "timeout of 100ms") {
		t.Errorf("past its time: %v", err)
	}
	c.Path += "gone"
	if err := c.Run(t.Context(), false, "a", "@x"); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("not there: %v", err)
	}
}

func TestNoisyHookIsCutShort(t *testing.T) {
	c, log := script(t, "head -c 8000000 /dev/zero | tr '\\0' x")
	if err := c.Run(t.Context(), false, "a", "@x"); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "x"); n < 1<<20 || n > 3<<20/2 {
		t.Errorf("%d bytes of noise logged", n)
	}
}
