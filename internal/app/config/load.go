package config

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/logging"
)

// defaultLimit is the watchdog's limit of standstill when nothing is configured;
// shorter ones have cancelled healthy runs.
const defaultLimit = 10 * time.Minute

// Paths are the places that Cairn uses when the configuration names no others.
type Paths struct {
	Search  []string // configuration files, in the order they are looked for
	State   string   // folder for what must survive
	Runtime string   // folder for sockets
}

// DefaultPaths derives the places from who runs us: the system's folders for root,
// the XDG folders for an ordinary user. CAIRN_CONFIG, when set, is the only
// configuration file looked for.
func DefaultPaths() Paths { return PathsFor(os.Geteuid(), os.Getenv) }

// PathsFor is DefaultPaths for a given user and environment.
func PathsFor(uid int, getenv func(string) string) Paths {
	p := Paths{
		Search:  []string{"/etc/cairn/cairn.yml", "/etc/zrepl/zrepl.yml", "/usr/local/etc/zrepl/zrepl.yml"},
		State:   "/var/lib/cairn",
		Runtime: "/run/cairn",
	}
	if uid != 0 {
		home := getenv("HOME")
		if !filepath.IsAbs(home) {
			home = accountHome(uid)
		}
		xdg := func(name, otherwise string) string {
			if dir := getenv(name); filepath.IsAbs(dir) {
				return filepath.Join(dir, "cairn")
			}
			return filepath.Join(home, otherwise, "cairn")
		}
		p.State = xdg("XDG_STATE_HOME", ".local/state")
		p.Runtime = filepath.Join(p.State, "run")
		if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
			p.Runtime = filepath.Join(dir, "cairn")
		}
		p.Search = slices.Insert(p.Search, 0, filepath.Join(xdg("XDG_CONFIG_HOME", ".config"), "cairn.yml"))
	}
	if file := getenv("CAIRN_CONFIG"); file != "" {
		p.Search = []string{file}
	}
	return p
}

// accountHome is the home folder that the system knows of a user, for a process
// started without HOME: the state must not depend on where that was.
func accountHome(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil || !filepath.IsAbs(u.HomeDir) {
		return "/"
	}
	return u.HomeDir
}

// Find returns the first configuration file of the search order that exists.
func Find(p Paths) (string, error) {
	for _, file := range p.Search {
		_, err := os.Stat(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", &cairn.Error{Op: "read configuration", Subject: file, Kind: cairn.KindPermission, Err: err}
		}
	}
	return "", &cairn.Error{Op: "find a configuration", Kind: cairn.KindNotFound,
		Err:  errors.New("looked for " + strings.Join(p.Search, ", ")),
		Hint: "write one (docs/guide/configuration.md), or name it with --config or CAIRN_CONFIG"}
}

// Options say how a configuration is read.
type Options struct {
	Paths     Paths // for defaults; DefaultPaths() normally
	SkipFiles bool  // do not look at certificate and key files
}

// Load reads a configuration file and what it includes, applies defaults and checks
// the whole. The error's cause is [Problems] when the text is wrong.
func Load(file string, o Options) (*Config, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, &cairn.Error{Op: "read configuration", Subject: file, Kind: cairn.KindIO, Err: err}
	}
	src, err := os.ReadFile(file)
	if err != nil {
		kind := cairn.KindIO
		switch {
		case errors.Is(err, fs.ErrNotExist):
			kind = cairn.KindNotFound
		case errors.Is(err, fs.ErrPermission):
			kind = cairn.KindPermission
		}
		return nil, &cairn.Error{Op: "read configuration", Subject: file, Kind: kind, Err: err}
	}
	return Parse(file, src, o)
}

// Parse is Load for a text that is already read. The file name is for messages and
// is what relative paths and includes count from.
func Parse(file string, src []byte, o Options) (*Config, error) {
	r := reading{options: o, at: map[any]Pos{}}
	c := &Config{File: file}
	if r.decoder(file).document(src, c) {
		r.include(c)
		r.complete(c)
		r.check(c)
		if !r.options.SkipFiles {
			r.checkCertificates(c)
		}
	}
	if err := r.problems.asError(file); err != nil {
		return nil, err
	}
	return c, nil
}

// reading is one Parse under way.
type reading struct {
	options  Options
	problems Problems
	at       map[any]Pos
}

func (r *reading) decoder(file string) *decoder {
	return &decoder{file: file, problems: &r.problems, at: r.at}
}

// fail reports a field that stands in a file. One that does not stand anywhere has
// its value because something else was wrong, and that is reported.
func (r *reading) fail(field any, text, hint string) {
	at, ok := r.at[field]
	if ok || len(r.problems) == 0 {
		r.problems = append(r.problems, Problem{At: at, Text: text, Hint: hint})
	}
}

// included is the grammar of an included file.
type included struct {
	Volumes []*Volume `yaml:"volumes" doc:"more volumes"`
	Jobs    []*Job    `yaml:"jobs" doc:"more jobs"`
}

// include merges the included files' jobs and volumes into c.
func (r *reading) include(c *Config) {
	for i := range c.Include {
		files, err := includeFiles(c.Include[i])
		if err != nil {
			r.fail(&c.Include[i], "cannot include: "+err.Error(), "")
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				r.fail(&c.Include[i], "cannot include: "+err.Error(), "")
				continue
			}
			var more included
			if r.decoder(file).document(src, &more) {
				c.Jobs = append(c.Jobs, more.Jobs...)
				c.Volumes = append(c.Volumes, more.Volumes...)
			}
		}
	}
}

// includeFiles is the file itself, or the *.yml files of a folder in byte order.
func includeFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".yml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files, err
}

// complete fills in the defaults that depend on the rest.
func (r *reading) complete(c *Config) {
	if c.Global.State == "" {
		c.Global.State = r.options.Paths.State
	}
	if c.Global.Control.SockPath == "" {
		c.Global.Control.SockPath = filepath.Join(r.options.Paths.Runtime, "control")
	}
	if c.Global.Serve.StdinServer.SockDir == "" {
		c.Global.Serve.StdinServer.SockDir = filepath.Join(c.Runtime(), "stdinserver")
	}
	if len(c.Global.Logging) == 0 {
		c.Global.Logging = defaultLogging()
	}
	if c.Global.Watchdog.Limit == 0 {
		c.Global.Watchdog.Limit = defaultLimit
	}
	for _, j := range c.Jobs {
		j.Watchdog = c.Global.Watchdog.with(j.Watchdog)
	}
}

// defaultLogging is zrepl's choice when nothing is configured.
func defaultLogging() []LogOutlet {
	d := logging.Default()[0]
	return []LogOutlet{{Type: d.Type, Level: d.Level, Format: d.Format, Time: d.Time, Color: d.Color}}
}

// LogOutlets is the logging as package logging takes it.
func (c *Config) LogOutlets() []logging.Outlet {
	var outlets []logging.Outlet
	for _, o := range c.Global.Logging {
		out := logging.Outlet{Type: o.Type, Level: o.Level, Format: o.Format, Time: o.Time, Color: o.Color,
			Facility: o.Facility, Address: o.Address, Net: o.Net, RetryInterval: o.RetryInterval}
		if o.TLS != nil {
			out.CA, out.Cert, out.Key = o.TLS.CA, o.TLS.Cert, o.TLS.Key
		}
		outlets = append(outlets, out)
	}
	return outlets
}

// with lays a job's own limits over the general ones: its limit replaces every
// general one, its phases theirs.
func (w Watchdog) with(own Watchdog) Watchdog {
	if own.Limit != 0 {
		return own
	}
	merged := Watchdog{Limit: w.Limit, Phases: maps.Clone(w.Phases)}
	if merged.Phases == nil {
		merged.Phases = own.Phases
	}
	maps.Copy(merged.Phases, own.Phases)
	return merged
}

// Runtime is the folder for sockets: the control socket's.
func (c *Config) Runtime() string { return filepath.Dir(c.Global.Control.SockPath) }

// Owner returns the job that writes the name into what it leaves behind, nil when
// there is none. A source with several clients adds theirs to its own.
func (c *Config) Owner(name string) *Job {
	if j := c.Job(name); j != nil {
		return j
	}
	for _, j := range c.Jobs {
		if j.Type == "source" && strings.HasPrefix(name, j.Name+".") {
			return j
		}
	}
	return nil
}

// Job returns the job of that name, nil when there is none.
func (c *Config) Job(name string) *Job {
	for _, j := range c.Jobs {
		if j.Name == name {
			return j
		}
	}
	return nil
}
