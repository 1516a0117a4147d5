package guest_test

import (
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

// snareScript takes the trap away before it acts, so that it acts once. Without a
// trap for its verb it becomes zfs.
const snareScript = `#!/bin/bash
dir=${0%/*}
real=$(PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin command -v zfs)
verb=
if [ -e "$dir/trap" ]; then { read -r verb moment; read -r action; } <"$dir/trap"; fi
if [ "$verb" != "$1" ] || ! mv "$dir/trap" "$dir/sprung" 2>/dev/null; then exec "$real" "$@"; fi
case $verb-$moment in
*-before) eval "$action"; exec "$real" "$@" ;;
*-after) "$real" "$@"; status=$?; eval "$action"; exit $status ;;
send-*) "$real" "$@" | { head -c "$moment"; eval "$action"; cat; }; exit ${PIPESTATUS[0]} ;;
*) { head -c "$moment"; eval "$action"; cat; } | "$real" "$@"; exit ${PIPESTATUS[1]} ;;
esac
`

func newSnare(t *testing.T) *snare {
	t.Helper()
	s := &snare{t, t.TempDir()}
	if err := os.WriteFile(s.program(), []byte(snareScript), 0o755); err != nil {
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
