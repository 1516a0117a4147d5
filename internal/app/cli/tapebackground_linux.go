package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"cairn"
)

// A mount in the background is this program once more, with the same arguments, in
// a session of its own. It tells its parent through an open file how mounting went;
// the variable names the file's number and marks the process.
const (
	readyVariable = "CAIRN_MOUNT_READY"
	readyFile     = 3
)

func isBackground() bool { return os.Getenv(readyVariable) != "" }

// report is the one line that the process in the background sends.
type report struct {
	Said    string     `json:"said,omitempty"` // mounted; what to print
	Op      string     `json:"op,omitempty"`   // failed; what the error says
	Subject string     `json:"subject,omitempty"`
	Kind    cairn.Kind `json:"kind,omitempty"`
	Cause   string     `json:"cause,omitempty"`
	Hint    string     `json:"hint,omitempty"`
}

// parent is who waits for a mount in the background; nil when nobody does.
type parent struct{ file *os.File }

func waitingParent() *parent {
	if !isBackground() {
		return nil
	}
	syscall.CloseOnExec(readyFile)
	return &parent{os.NewFile(readyFile, "parent")}
}

// mounted lets the parent go. What was given by a path relative to the working
// folder has been opened; the folder itself must not be held.
func (w *parent) mounted(said string) {
	if w == nil {
		return
	}
	w.send(report{Said: said})
	_ = os.Chdir("/")
}

func (w *parent) failed(err error) {
	if w == nil || err == nil {
		return
	}
	r := report{Op: "mount tape", Kind: cairn.KindOf(err), Cause: err.Error()}
	var e *cairn.Error
	if errors.As(err, &e) {
		r.Op, r.Subject, r.Hint, r.Cause = e.Op, e.Subject, e.Hint, ""
		if e.Err != nil {
			r.Cause = e.Err.Error()
		}
	}
	w.send(r)
}

// send writes the report; a second one has no reader any more.
func (w *parent) send(r report) {
	text, err := json.Marshal(r)
	if err == nil {
		_, _ = w.file.Write(append(text, '\n'))
	}
	_ = w.file.Close()
}

// mountInBackground starts the process and waits until it has mounted.
func (p *program) mountInBackground(ctx context.Context, o mountOptions) error {
	log, err := p.mountLog(o)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has its own
	ours, theirs, err := os.Pipe()
	if err != nil {
		return &cairn.Error{Op: "mount in the background", Subject: o.drive, Kind: cairn.KindIO, Err: err}
	}
	defer ours.Close() //nolint:errcheck // what came through it counts
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), fmt.Sprint(readyVariable, "=", readyFile))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return &cairn.Error{Op: "mount in the background", Subject: o.drive, Kind: cairn.KindIO, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	line, err := bufio.NewReader(ours).ReadBytes('\n')
	var r report
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	switch {
	case errors.Is(err, io.EOF):
		return &cairn.Error{Op: "mount tape", Subject: o.drive, Kind: cairn.KindIO, Err: fmt.Errorf("its process ended: %w", cmd.Wait()), Hint: "see " + log.Name()}
	case err != nil:
		return &cairn.Error{Op: "mount tape", Subject: o.drive, Kind: cairn.KindIO, Err: err}
	case r.Said == "":
		_ = cmd.Wait()
		return &cairn.Error{Op: r.Op, Subject: r.Subject, Kind: r.Kind, Err: errors.New(r.Cause), Hint: r.Hint}
	}
	return p.printf("%s, by process %d; messages go to %s\n", r.Said, cmd.Process.Pid, log.Name())
}

// mountLog opens the file for the messages of a mount in the background.
func (p *program) mountLog(o mountOptions) (*os.File, error) {
	name := o.log
	if name == "" {
		cfg, err := p.config()
		if err != nil {
			return nil, err
		}
		folder := filepath.Join(cfg.Global.State, "tape-mounts")
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, &cairn.Error{Op: "make folder", Subject: folder, Kind: cairn.KindIO, Err: err, Hint: "name a file with --log"}
		}
		name = filepath.Join(folder, strings.Trim(strings.ReplaceAll(filepath.Clean(o.drive), "/", "-"), "-.")+".log")
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, &cairn.Error{Op: "open log", Subject: name, Kind: cairn.KindIO, Err: err}
	}
	return f, nil
}
