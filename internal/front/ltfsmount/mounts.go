//go:build linux

package ltfsmount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"cairn"
	"cairn/client"
)

// attrStatus is the attribute of a mount's root that holds a client.Tape.
const attrStatus = prefix + "ltfs.vendor.cairn.status"

// Mounts asks the mounted tapes of this machine how they stand. The zero value is
// ready; its method is for many goroutines.
type Mounts struct {
	mu     sync.Mutex        // guards what follows
	asking map[string]string // folders whose mount was asked and has not answered → since when, in words
}

// answerLimit is how long a mount may take to tell of itself.
const answerLimit = 3 * time.Second

// List is one entry per mounted tape, in the order of the mount table. One whose
// process has ended, or does not answer within seconds, is of the state unknown,
// with no more known than its folder; it is not asked again before it has answered.
func (m *Mounts) List(ctx context.Context) ([]client.Tape, error) {
	const table = "/proc/self/mounts"
	text, err := os.ReadFile(table)
	if err != nil {
		return nil, &cairn.Error{Op: "list mounted tapes", Subject: table, Kind: cairn.KindIO, Err: err}
	}
	var list []client.Tape
	for _, folder := range tapeFolders(string(text)) {
		t, ok := m.ask(ctx, folder)
		if ok {
			list = append(list, t)
		}
	}
	return list, ctx.Err()
}

// tapeFolders are the folders of a mount table that LTFS is mounted on.
func tapeFolders(table string) (folders []string) {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) > 2 && strings.HasSuffix(fields[2], ".ltfs") {
			folders = append(folders, unescapeMount(fields[1]))
		}
	}
	return folders
}

// unescapeMount undoes the kernel's writing of spaces and the like as "\040".
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

type mountAnswer struct {
	tape client.Tape
	err  error
}

// ask is what a mount tells; ok is false when it is not one of ours.
func (m *Mounts) ask(ctx context.Context, folder string) (t client.Tape, ok bool) {
	unknown := client.Tape{Folder: folder, State: cairn.StateUnknown.String()}
	m.mu.Lock()
	since, busy := m.asking[folder]
	if !busy {
		if m.asking == nil {
			m.asking = map[string]string{}
		}
		m.asking[folder] = time.Now().UTC().Format(time.RFC3339)
	}
	m.mu.Unlock()
	if busy {
		unknown.Why = "the process that mounted it has not answered since " + since
		return unknown, true
	}
	answered := make(chan mountAnswer, 1)
	go func() { // ends with the call, which a hung process keeps until it ends
		t, err := Ask(folder)
		m.mu.Lock()
		delete(m.asking, folder)
		m.mu.Unlock()
		answered <- mountAnswer{t, err}
	}()
	timer := time.NewTimer(answerLimit)
	defer timer.Stop()
	select {
	case a := <-answered:
		if errors.Is(a.err, cairn.KindUnavailable) {
			unknown.Why = errEnded.Error() + ": cairn tape unmount " + folder + ", then cairn tape check"
			return unknown, true
		}
		return a.tape, a.err == nil
	case <-timer.C:
		unknown.Why = fmt.Sprintf("the process that mounted it did not answer within %v", answerLimit)
	case <-ctx.Done():
		unknown.Why = "it was not waited for"
	}
	return unknown, true
}

var errEnded = errors.New("the process that mounted it has ended")

// Ask is what the mount on a folder tells of itself. It waits as long as that
// takes; KindInvalid when none of ours is mounted there, KindUnavailable when its
// process has ended.
func Ask(folder string) (client.Tape, error) {
	const longest = 64 << 10 // the kernel's limit for an attribute
	buf := make([]byte, longest)
	n, err := syscall.Getxattr(folder, attrStatus, buf)
	var t client.Tape
	if err == nil {
		err = json.Unmarshal(buf[:n], &t)
	}
	if errors.Is(err, syscall.ENOTCONN) {
		return t, &cairn.Error{Op: "ask the mount on", Subject: folder, Kind: cairn.KindUnavailable, Err: errEnded, Hint: "cairn tape unmount " + folder + ", then cairn tape check with the name of the drive"}
	}
	if err != nil {
		return t, &cairn.Error{Op: "ask the mount on", Subject: folder, Kind: cairn.KindInvalid, Err: err, Hint: "name the folder on which a tape is mounted"}
	}
	t.Folder = folder
	return t, nil
}
