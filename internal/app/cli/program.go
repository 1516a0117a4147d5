package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/client"
	"cairn/internal/app/config"
	"cairn/internal/app/daemon"
)

// program is one invocation: its streams, and what it opened on the way. It is
// used by one goroutine.
type program struct {
	in         io.Reader
	out        io.Writer
	errOut     io.Writer
	configPath string

	loaded *config.Config
	opened *daemon.Here
	talk   *client.Client
}

// addCommands hangs every command below the root.
func (p *program) addCommands(root *cobra.Command) {
	root.AddCommand(
		p.statusCommand(), p.listCommand(), p.diffCommand(), p.jobCommand(),
		p.captureCommand(), p.replicateCommand(), p.pruneCommand(), p.restoreCommand(),
		p.volumeCommand(), p.serveCommand(), p.tapeCommand(), p.zfsCommand(),
		p.configCommand(), p.testCommand(), p.checkCommand(), p.certCommand(), p.daemonCommand(), p.stdinserverCommand(),
		p.signalCommand(), p.versionCommand(), p.completionCommand())
}

// close releases what the command opened.
func (p *program) close() error {
	if p.talk != nil {
		p.talk.Close()
	}
	if p.opened != nil {
		return p.opened.Close()
	}
	return nil
}

// config is the configuration in use. Without --config a missing file is no
// error: the volumes of the default state folder can be worked on without one.
func (p *program) config() (*config.Config, error) {
	if p.loaded != nil {
		return p.loaded, nil
	}
	cfg, err := p.loadConfig(true)
	if err == nil {
		p.loaded = cfg
		return cfg, nil
	}
	if p.configPath == "" && cairn.KindOf(err) == cairn.KindNotFound {
		cfg, err = config.Parse("", nil, config.Options{Paths: config.DefaultPaths(), SkipFiles: true})
		if err == nil {
			p.loaded = cfg
			return cfg, nil
		}
	}
	return nil, p.listProblems(err)
}

// loadConfig reads the file that --config, the environment or the usual places name.
func (p *program) loadConfig(skipFiles bool) (*config.Config, error) {
	paths := config.DefaultPaths()
	file := p.configPath
	if file == "" {
		found, err := config.Find(paths)
		if err != nil {
			return nil, err
		}
		file = found
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, &cairn.Error{Op: "read configuration", Subject: file, Kind: cairn.KindNotFound, Hint: "name the file with --config"}
	}
	return config.Load(file, config.Options{Paths: paths, SkipFiles: skipFiles})
}

// listProblems prints each mistake of a configuration on a line of its own when
// there are several; the error then only counts them.
func (p *program) listProblems(err error) error {
	var problems config.Problems
	var outer *cairn.Error
	if !errors.As(err, &problems) || len(problems) < 2 || !errors.As(err, &outer) {
		return err
	}
	for _, pr := range problems {
		p.note("%s", pr)
	}
	return &cairn.Error{Op: outer.Op, Subject: outer.Subject, Kind: outer.Kind, Err: errors.New(count(len(problems), "problem")), Hint: "they are listed above"}
}

// daemon is a client of the daemon that the configuration names.
func (p *program) daemon() (*client.Client, error) {
	if p.talk != nil {
		return p.talk, nil
	}
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	p.talk = client.New(cfg.Global.Control.SockPath)
	return p.talk, nil
}

// running returns a client when a daemon answers, and nil when none does.
func (p *program) running(ctx context.Context) (*client.Client, error) {
	c, err := p.daemon()
	if err != nil {
		return nil, err
	}
	_, err = c.Version(ctx)
	if cairn.KindOf(err) == cairn.KindUnavailable && ctx.Err() == nil {
		return nil, nil
	}
	return c, err
}

// here opens the place of this machine. Volumes that a daemon hosts are reached
// through it, the others are hosted by this command until it ends.
func (p *program) here(ctx context.Context) (*daemon.Here, error) {
	if p.opened != nil {
		return p.opened, nil
	}
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	h, err := daemon.OpenHere(ctx, cfg, daemon.HereOptions{})
	if err != nil {
		return nil, err
	}
	p.opened = h
	return h, nil
}
