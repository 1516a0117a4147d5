// Package config reads Cairn's configuration: zrepl's grammar, strictly, with our
// keys added to it, into plain typed structs with every default applied.
//
// The structs are the grammar. Their field tags name the keys, the kinds of job or
// transport a key belongs to, defaults, allowed values and one sentence of
// documentation; the parser, the JSON schema and the resolved view are all driven
// by those tags, so that they cannot disagree. docs/guide/configuration.md is the
// same for people.
//
// What it promises: an unknown, misplaced, repeated or missing key, and a value
// that makes no sense, is one [Problem] with file, line and column, and as many of
// them as can be found are reported at once. A key that is legal and not built in
// this version is refused in the same way (kind unsupported), never ignored. What
// [Load] returns has been checked as a whole: names are unique, listeners and
// stores do not collide, schedules and retention rules compile, certificate files
// can be read. It opens nothing else and changes nothing.
//
// What can go wrong: files change between the check and their use; callers that
// open them still report their own errors.
package config

import (
	"log/slog"
	"time"
)

// Config is a whole configuration, included files merged in.
type Config struct {
	// File is the absolute path of the main file.
	File string `yaml:"-"`

	Include []string  `yaml:"include" as:"path" doc:"files (*.yml) or folders of such files with more jobs and volumes; relative to the including file"`
	Global  Global    `yaml:"global" doc:"settings of the daemon as a whole"`
	Volumes []*Volume `yaml:"volumes" doc:"block volumes that this file declares, by name; jobs select from them"`
	Jobs    []*Job    `yaml:"jobs" doc:"what is captured, replicated and pruned, when and to where"`

	Tapes  []*Tape        `yaml:"tapes" doc:"tape drives that this file declares, by name, and how tapes in them are mounted"`
	Images map[string]any `yaml:"images" later:"image support" doc:"golden images"`
}

// Pos is a place in a configuration file. Line and Column count from 1.
type Pos struct {
	File   string
	Line   int
	Column int
}

// Global holds the settings of the daemon as a whole.
type Global struct {
	State      string       `yaml:"state" as:"path" doc:"folder for the state: volumes, run history, kept listings (default /var/lib/cairn, for ordinary users $XDG_STATE_HOME/cairn)"`
	Control    Control      `yaml:"control" doc:"the socket that commands use"`
	Logging    []LogOutlet  `yaml:"logging" doc:"where log entries go; nothing configured means stdout, level warn, format human"`
	Monitoring []Monitoring `yaml:"monitoring" doc:"where metrics are shown"`
	Serve      GlobalServe  `yaml:"serve" doc:"settings shared by passive jobs"`
	NBD        []NBD        `yaml:"nbd" doc:"listeners on which every hosted volume and its snapshots are exported by name"`
	Watchdog   Watchdog     `yaml:"watchdog" doc:"limits of standstill for every job that sets no own"`
}

// Control is the socket that commands use to reach the daemon. Its folder is the
// daemon's runtime folder, where its other sockets lie too.
type Control struct {
	SockPath string `yaml:"sockpath" as:"path" doc:"path of the unix socket; its folder must not be accessible to others (default /run/cairn/control, for ordinary users $XDG_RUNTIME_DIR/cairn/control)"`
}

// LogOutlet is one place where log entries go.
type LogOutlet struct {
	Type          string        `yaml:"type" required:"*" values:"stdout syslog tcp" doc:"what the outlet writes to"`
	Level         slog.Level    `yaml:"level" default:"warn" doc:"least level that is written: debug, info, warn, error"`
	Format        string        `yaml:"format" default:"human" values:"human logfmt json" doc:"how an entry is written"`
	Time          bool          `yaml:"time" for:"stdout" default:"true" doc:"write the time too"`
	Color         bool          `yaml:"color" for:"stdout" default:"true" doc:"use colours when stdout is a terminal and NO_COLOR is not set"`
	Facility      string        `yaml:"facility" for:"syslog" default:"local0" values:"kern user mail daemon auth syslog lpr news uucp cron authpriv ftp local0 local1 local2 local3 local4 local5 local6 local7" doc:"syslog facility"`
	Address       string        `yaml:"address" for:"tcp" required:"*" as:"address" doc:"HOST:PORT of the log collector"`
	Net           string        `yaml:"net" for:"tcp" default:"tcp" values:"tcp tcp4 tcp6" doc:"network"`
	RetryInterval time.Duration `yaml:"retry_interval" for:"syslog tcp" default:"10s" doc:"wait between attempts to connect"`
	TLS           *LogTLS       `yaml:"tls" for:"tcp" doc:"use mutual TLS"`
}

// LogTLS are the files of a TLS log outlet.
type LogTLS struct {
	CA   string `yaml:"ca" required:"*" as:"path" doc:"certificate authority that signed the collector's certificate (PEM)"`
	Cert string `yaml:"cert" required:"*" as:"path" doc:"our certificate (PEM)"`
	Key  string `yaml:"key" required:"*" as:"path" doc:"its key (PEM)"`
}

// Monitoring is one metrics outlet.
type Monitoring struct {
	Type           string `yaml:"type" required:"*" values:"prometheus" doc:"kind of metrics"`
	Listen         string `yaml:"listen" required:"*" as:"address" doc:"address that serves the metrics"`
	ListenFreebind bool   `yaml:"listen_freebind" doc:"listen on an address that no interface has yet"`
}

// GlobalServe are settings shared by passive jobs.
type GlobalServe struct {
	StdinServer StdinServer `yaml:"stdinserver" doc:"sockets of the ssh transport"`
}

// StdinServer are the sockets of the ssh transport.
type StdinServer struct {
	SockDir string `yaml:"sockdir" as:"path" doc:"folder of the sockets, accessible to no others (default: stdinserver beside the control socket)"`
}

// NBD is one listener on which volumes and snapshots are exported.
type NBD struct {
	Type      string   `yaml:"type" required:"*" values:"unix tcp tls" doc:"what is listened on; tcp without TLS is for loopback addresses only"`
	Path      string   `yaml:"path" for:"unix" required:"*" as:"path" doc:"path of the unix socket"`
	Listen    string   `yaml:"listen" for:"tcp tls" required:"*" as:"address" doc:"HOST:PORT to listen on"`
	CA        string   `yaml:"ca" for:"tls" required:"*" as:"path" doc:"certificate authority of the clients (PEM)"`
	Cert      string   `yaml:"cert" for:"tls" required:"*" as:"path" doc:"our certificate (PEM)"`
	Key       string   `yaml:"key" for:"tls" required:"*" as:"path" doc:"its key (PEM)"`
	ClientCNs []string `yaml:"client_cns" for:"tls" required:"*" doc:"common names of the client certificates that are let in"`
}

// Watchdog are limits of standstill: a step whose progress stands still for longer
// is cancelled, reported as stuck and retried.
type Watchdog struct {
	Limit  time.Duration            `yaml:"limit" as:"span" doc:"limit of every phase that has no own (default 10m)"`
	Phases map[string]time.Duration `yaml:"phases" as:"span" doc:"limits by phase"`
}

// Volume is a block volume that the configuration declares. Exactly one of Adopt
// and Size is set.
type Volume struct {
	Name string `yaml:",key" doc:"dataset name of the volume"`
	At   Pos    `yaml:"-"`

	Adopt string `yaml:"adopt" as:"path" doc:"existing file or device that becomes the volume's head, in place"`
	Size  int64  `yaml:"size" as:"size" doc:"size of a new volume that Cairn keeps itself, as in 10GiB"`
	Store string `yaml:"store" as:"path" doc:"folder for the preserved blocks and change sets (default: in the state folder)"`

	Hashes bool `yaml:"hashes" doc:"keep a hash of every block, so that silent changes of the disk are found without a replica: takes 2 GiB per TiB of data"`

	OnFull      string `yaml:"on_full" default:"bookmark-oldest" values:"bookmark-oldest block" doc:"when the store is full, the data of the oldest snapshots is given up (they become bookmarks); when none may be given up any more, writes fail, or with block wait for room"`
	KeepAtLeast int    `yaml:"keep_at_least" default:"2" doc:"snapshots that are never given up for room"`
	NBD         bool   `yaml:"nbd" default:"true" doc:"export on the listeners of global.nbd"`
}
