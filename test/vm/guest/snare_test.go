package guest_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A snare is a folder whose program zfs is OpenZFS's, but runs a command once, at a
// moment that the test chooses.
type snare struct {
	t   *testing.T
	dir string
}

// The moments of a command of zfs. A number is one too: after so many bytes of its
// stream.
const (
	before = "before"
	after  = "after"
)

// realZFS is OpenZFS's program.
const realZFS = "/usr/sbin/zfs"

// snareScript becomes zfs, or the trap when one is set for the verb. Every zfs of a
// test passes here, so it starts nothing.
const snareScript = `#!/bin/sh
dir=${0%%/*}
if [ -e "$dir/trap" ] && { read -r verb moment; read -r action; } <"$dir/trap" && [ "$verb" = "$1" ] && mv "$dir/trap" "$dir/sprung"; then
  exec bash "$dir/act" "$moment" "$action" "$@"
fi
exec %s "$@"
`

// snareAct is the trap.
const snareAct = `moment=$1 action=$2
shift 2
case $1-$moment in
*-before) eval "$action"; exec %[1]s "$@" ;;
*-after) %[1]s "$@"; status=$?; eval "$action"; exit $status ;;
send-*) %[1]s "$@" | { head -c "$moment"; eval "$action"; cat; }; exit ${PIPESTATUS[0]} ;;
*) { head -c "$moment"; eval "$action"; cat; } | %[1]s "$@"; exit ${PIPESTATUS[1]} ;;
esac
`

func newSnare(t *testing.T) *snare {
	t.Helper()
	s := &snare{t, t.TempDir()}
	err := errors.Join(os.WriteFile(s.program(), fmt.Appendf(nil, snareScript, realZFS), 0o755),
		os.WriteFile(filepath.Join(s.dir, "act"), fmt.Appendf(nil, snareAct, realZFS), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *snare) program() string { return filepath.Join(s.dir, "zfs") }

// set lays the trap: the shell command runs at the moment of the next zfs with the
// verb. $PPID is the process that started it.
func (s *snare) set(verb, moment, command string) {
	s.t.Helper()
	_ = os.Remove(filepath.Join(s.dir, "sprung")) // of an earlier trap, if any
	if err := os.WriteFile(filepath.Join(s.dir, "laying"), []byte(verb+" "+moment+"\n"+command+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s.dir, "laying"), filepath.Join(s.dir, "trap")); err != nil {
		s.t.Fatal(err)
	}
}

func (s *snare) sprung() bool {
	_, err := os.Stat(filepath.Join(s.dir, "sprung"))
	return err == nil
}

// caught fails the test when the trap did not spring.
func (s *snare) caught(what string) {
	s.t.Helper()
	if !s.sprung() {
		s.t.Errorf("%s: no process came to the moment", what)
	}
}

// The snare acts at its moment, once, and is zfs otherwise.
func TestZFSSnare(t *testing.T) {
	inside(t)
	run(t, "modprobe zfs")
	s := newSnare(t)
	seen := filepath.Join(s.dir, "seen")
	for _, moment := range []string{before, after} {
		s.set("version", moment, fmt.Sprintf("echo %s $PPID >>%s", moment, seen))
		for range 2 {
			if out := run(t, s.program()+" version"); !strings.HasPrefix(out, "zfs-") {
				t.Errorf("snared %s zfs says %q", moment, out)
			}
		}
		s.caught(moment)
	}
	b, err := os.ReadFile(seen)
	if got := strings.Fields(string(b)); err != nil || len(got) != 4 || got[0] != before || got[2] != after {
		t.Errorf("the command ran as %q, %v", b, err)
	}
}
