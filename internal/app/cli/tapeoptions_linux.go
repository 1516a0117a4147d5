package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"cairn/internal/app/config"
	"cairn/internal/policy/syncpolicy"
	"cairn/ltfs"
)

// mountOptions are how a tape is mounted: what the configuration says, then the
// options after -o, then the flags.
type mountOptions struct {
	drive      string
	policy     syncpolicy.Policy
	fsync      string // index, incremental, data; empty: index
	budget     int64
	buffer     int64
	rules      *ltfs.Policy
	labels     string
	generation uint64
	readOnly   bool
	repair     bool
	background bool
	noSync     bool // sync(2) is left alone
	allowOther *bool
	uid, gid   *uint32
	fileMode   uint32
	dirMode    uint32
	log        string
	metrics    string
}

// optionWords are the options after -o and the flags of the same names, with `_`
// for `-`: ours, and those of other LTFS software that mean something here.
var optionWords = map[string]func(*mountOptions, string) error{
	"devname": func(o *mountOptions, v string) error { o.drive = v; return nil },
	"sync":    func(o *mountOptions, v string) error { return o.setPolicy(strings.FieldsFunc(v, isPolicyComma)) },
	"sync_type": func(o *mountOptions, v string) error { // one word, with minutes
		return o.setPolicy([]string{v})
	},
	"fsync":         func(o *mountOptions, v string) error { return word(&o.fsync, v, "index", "incremental", "data") },
	"index_budget":  func(o *mountOptions, v string) (err error) { o.budget, err = parseSize(v); return err },
	"max_pool_size": func(o *mountOptions, v string) (err error) { o.buffer, err = parseSize(v + "MiB"); return err },
	"rules":         func(o *mountOptions, v string) (err error) { o.rules, err = ltfs.ParsePolicy(v); return err },
	"generation": func(o *mountOptions, v string) (err error) {
		o.generation, err = strconv.ParseUint(v, 10, 64)
		return err
	},
	"rollback_mount": func(o *mountOptions, v string) (err error) {
		o.generation, err = strconv.ParseUint(v, 10, 64)
		return err
	},
	"read_only":          func(o *mountOptions, v string) error { return truth(&o.readOnly, v) },
	"ro":                 func(o *mountOptions, v string) error { return truth(&o.readOnly, v) },
	"rw":                 func(o *mountOptions, _ string) error { o.readOnly = false; return nil },
	"repair":             func(o *mountOptions, v string) error { return truth(&o.repair, v) },
	"background":         func(o *mountOptions, v string) error { return truth(&o.background, v) },
	"sync_calls":         (*mountOptions).setSyncCalls,
	"allow_other":        func(o *mountOptions, v string) error { o.allowOther = new(bool); return truth(o.allowOther, v) },
	"noallow_other":      func(o *mountOptions, _ string) error { o.allowOther = new(bool); return nil },
	"uid":                func(o *mountOptions, v string) error { return number(&o.uid, v, 10) },
	"gid":                func(o *mountOptions, v string) error { return number(&o.gid, v, 10) },
	"umask":              func(o *mountOptions, v string) error { return errors.Join(mask(&o.fileMode, v), mask(&o.dirMode, v)) },
	"fmask":              func(o *mountOptions, v string) error { return mask(&o.fileMode, v) },
	"dmask":              func(o *mountOptions, v string) error { return mask(&o.dirMode, v) },
	"log":                func(o *mountOptions, v string) error { o.log = v; return nil },
	"metrics":            func(o *mountOptions, v string) error { o.metrics = v; return nil },
	"kmi_backend":        func(_ *mountOptions, v string) error { return word(new(string), v, "none") },
	"symlink_type":       func(_ *mountOptions, v string) error { return word(new(string), v, "posix") },
	"atime":              refuseOption("times are not changed by reading: every change costs an index"),
	"force_mount_no_eod": refuseOption("say repair to bring the tape into order first, or ro to read it as it is"),
	"capture_index":      refuseOption("cairn tape index writes an index to a file"),
	"device_list":        refuseOption("cairn tape list lists the drives"),
	"release_device":     refuseOption("a drive is released when it is unmounted"),
}

// ignoredWords mean something to mount(8), or to other LTFS software in a way that
// changes nothing that is kept.
var ignoredWords = func() map[string]bool {
	known := map[string]bool{}
	for _, w := range strings.Fields(`defaults auto noauto nofail _netdev user users nouser owner suid nosuid dev nodev exec noexec relatime
		noatime strictatime nodiratime async sync_read default_permissions big_writes use_ino nonempty quiet trace syslogtrace fulltrace verbose eject noeject
		work_directory tape_backend iosched_backend min_pool_size scsi_append_only_mode config_file comment
		strict_drive nostrict_drive fsname subtype max_read max_readahead`) {
		known[w] = true
	}
	return known
}()

// parse takes options as after -o: words with or without a value, between commas.
// Where a value holds commas itself, as close,time@5m does, what follows belongs to
// it as long as it is a sync policy.
func (o *mountOptions) parse(text string) error {
	words := strings.Split(text, ",")
	for i := 0; i < len(words); i++ {
		name, value, given := strings.Cut(words[i], "=")
		for name == "sync" && given && i+1 < len(words) && isPolicy(words[i+1]) {
			i++
			value += "," + words[i]
		}
		if name == "" || name == "sync" && !given { // mount(8)'s sync: write at once; the policies say that better
			continue
		}
		if err := o.set(name, value); err != nil {
			return err
		}
	}
	return nil
}

func isPolicy(word string) bool {
	_, err := syncpolicy.Parse(word)
	return err == nil
}

func (o *mountOptions) set(name, value string) error {
	if apply := optionWords[name]; apply != nil {
		if err := apply(o, value); err != nil {
			return invalid("use mount option", name+"="+value, "", err)
		}
		return nil
	}
	if ignoredWords[name] || strings.HasPrefix(name, "x-") {
		return nil
	}
	return invalid("use mount option", strconv.Quote(name), "docs/guide/tape-mount.md lists the options", errors.New("there is no such option"))
}

// configure takes what the configuration says.
func (o *mountOptions) configure(t config.Tape) error {
	if t.Drive != "" {
		o.drive = t.Drive
	}
	o.labels, o.budget = t.Labels, t.IndexBudget
	if len(t.Sync) > 0 {
		if err := o.setPolicy(t.Sync); err != nil {
			return err
		}
	}
	for _, w := range [][2]string{{"fsync", t.Fsync}, {"sync_calls", t.SyncCalls}, {"rules", t.Rules}} {
		if w[1] != "" {
			if err := o.set(w[0], w[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func isPolicyComma(r rune) bool { return r == ',' || r == '+' }

func (o *mountOptions) setPolicy(words []string) (err error) {
	o.policy, err = syncpolicy.Parse(words...)
	return err
}

func (o *mountOptions) setSyncCalls(v string) error {
	on := true
	if err := truth(&on, v); err != nil {
		return err
	}
	o.noSync = !on
	return nil
}

func refuseOption(why string) func(*mountOptions, string) error {
	return func(*mountOptions, string) error { return errors.New(why) }
}

func word(to *string, v string, words ...string) error {
	for _, w := range words {
		if v == w {
			*to = v
			return nil
		}
	}
	return fmt.Errorf("one of: %s", strings.Join(words, ", "))
}

// truth reads a switch; a word without a value switches on.
func truth(to *bool, v string) error {
	switch v {
	case "", "true", "on", "yes", "1":
		*to = true
	case "false", "off", "no", "0":
		*to = false
	default:
		return errors.New("true or false")
	}
	return nil
}

func number(to **uint32, v string, base int) error {
	n, err := strconv.ParseUint(v, base, 32)
	small := uint32(n)
	*to = &small
	return err
}

// mask takes permissions away, in octal digits.
func mask(mode *uint32, v string) error {
	var m *uint32
	if err := number(&m, v, 8); err != nil {
		return err
	}
	*mode = 0o777 &^ *m
	if *mode == 0 {
		return errors.New("nobody could use anything")
	}
	return nil
}
