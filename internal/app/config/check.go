package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"cairn"
	"cairn/internal/policy/schedule"
	"cairn/internal/system/transport"
)

// check looks at what no single value shows.
func (r *reading) check(c *Config) {
	r.checkLogging(c)
	r.checkWatchdog(&c.Global.Watchdog)
	for i := range c.Global.NBD {
		r.checkNBD(&c.Global.NBD[i])
	}
	r.checkVolumes(c)
	r.checkTapes(c)
	r.checkNames(c)
	for _, j := range c.Jobs {
		r.checkJob(j)
		r.checkLocal(c, j)
		r.checkReplicas(c, j)
	}
	r.checkListeners(c)
}

// Phases of the verbs that a watchdog limit can name.
var phases = []string{"list", "plan", "estimate", "rename", "lease", "abort", "hook", "capture", "send", "receive", "commit", "confirm", "bookmark", "destroy", "read", "verify"}

func (r *reading) checkWatchdog(w *Watchdog) {
	for phase := range w.Phases {
		if at, ok := r.at[entryOf{&w.Phases, phase}]; ok && !slices.Contains(phases, phase) {
			r.problems = append(r.problems, Problem{At: at, Text: fmt.Sprintf("unknown phase %q", phase), Hint: oneOf(phase, phases)})
		}
	}
}

func (r *reading) checkLogging(c *Config) {
	seen := map[string]bool{}
	for i := range c.Global.Logging {
		o := &c.Global.Logging[i]
		if seen[o.Type] && o.Type != "tcp" {
			r.fail(&o.Type, fmt.Sprintf("a second %s outlet", o.Type), "stdout and syslog can be given once")
		}
		seen[o.Type] = true
	}
}

func (r *reading) checkNBD(n *NBD) {
	if n.Type == "tcp" && n.Listen != "" && !loopback(n.Listen) {
		r.fail(&n.Listen, fmt.Sprintf("%q would offer the volumes to the network unprotected", n.Listen), "use type tls, or a loopback address")
	}
	if n.Type == "tls" && len(n.ClientCNs) == 0 {
		r.fail(&n.ClientCNs, "no client is let in", "name the clients' certificates")
	}
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// checkCertificates reads every certificate as a connection would, since a missing or
// expired one is better found now than at night.
func (r *reading) checkCertificates(c *Config) {
	for _, j := range c.Jobs {
		if s := j.Serve; s != nil && s.Type == "tls" {
			r.checkTLS(&s.CA, &s.Cert, &s.Key)
		}
		if p := j.Connect; p != nil && p.Type == "tls" {
			r.checkTLS(&p.CA, &p.Cert, &p.Key)
		}
	}
	for i := range c.Global.NBD {
		if n := &c.Global.NBD[i]; n.Type == "tls" {
			r.checkTLS(&n.CA, &n.Cert, &n.Key)
		}
	}
	for _, o := range c.Global.Logging {
		if o.TLS != nil {
			r.checkTLS(&o.TLS.CA, &o.TLS.Cert, &o.TLS.Key)
		}
	}
}

func (r *reading) checkTLS(ca, cert, key *string) {
	if *ca == "" || *cert == "" || *key == "" {
		return
	}
	err := transport.TLSFiles{CA: *ca, Cert: *cert, Key: *key}.Check()
	if err == nil {
		return
	}
	field := cert
	var e *cairn.Error
	for _, file := range []*string{ca, key} {
		if errors.As(err, &e) && e.Subject == *file && *file != *cert {
			field = file
		}
	}
	text, hint := textOf(err)
	r.fail(field, text, hint)
}

// checkNames looks at job names: unique, and legal in the names a job leaves on disk.
func (r *reading) checkNames(c *Config) {
	first := map[string]*Job{}
	for _, j := range c.Jobs {
		if j.Name == "" {
			continue
		}
		err := checkIdentity(j.Name)
		switch {
		case strings.HasPrefix(j.Name, "_"):
			r.fail(&j.Name, fmt.Sprintf("job name %q begins with an underscore", j.Name), "such names are reserved")
		case err != nil:
			r.fail(&j.Name, fmt.Sprintf("job name %q cannot be part of names on disk", j.Name), "use letters, digits and the signs - _ . : and space")
		}
		if other := first[j.Name]; other != nil {
			r.fail(&j.Name, fmt.Sprintf("a second job %q", j.Name), "the first is at "+r.at[&other.Name].String())
			continue
		}
		first[j.Name] = j
	}
}

func (r *reading) checkJob(j *Job) {
	r.checkSelection(j)
	r.checkSnapshotting(&j.Snapshotting)
	r.checkWatchdog(&j.Watchdog)
	if s := j.Serve; s != nil {
		r.checkClients(s)
		if s.Type == "tls" && len(s.ClientCNs) == 0 {
			r.fail(&s.ClientCNs, "no client is let in", "name the clients' certificates")
		}
	}
	for i := range j.Pruning.Keep {
		if rule := &j.Pruning.Keep[i]; rule.Type == "not_replicated" {
			r.fail(rule, fmt.Sprintf("rule not_replicated in a %s job", j.Type), "only the sending side of a push or pull job knows what is replicated")
		}
	}
}

// checkSelection wants a job to have something to work on, and somewhere to put it.
func (r *reading) checkSelection(j *Job) {
	switch j.Type {
	case "push", "source", "snap":
		misread := false
		for _, f := range []*cairn.Filter{&j.Volumes, &j.Filesystems} {
			_, written := r.at[f]
			misread = misread || written && *f == nil
		}
		if len(j.Volumes)+len(j.Filesystems) == 0 && !misread {
			r.problems = append(r.problems, Problem{At: j.At, Text: "the job selects nothing", Hint: `select volumes or ZFS filesystems, as in volumes: {"<": true}`})
		}
	case "pull", "sink":
		if j.RootVolumes == "" && j.RootFS == "" {
			r.problems = append(r.problems, Problem{At: j.At, Text: `missing key "root_fs" or "root_volumes"`, Hint: "the names below which ZFS datasets and volumes are received"})
		}
		for _, root := range []*string{&j.RootVolumes, &j.RootFS} {
			if err := cairn.CheckDatasetName(*root); err != nil && *root != "" {
				r.fail(root, fmt.Sprintf("%q cannot be part of dataset names", *root), cairn.HintOf(err))
			}
		}
	}
}

func (r *reading) checkSnapshotting(s *Snapshotting) {
	if s.Type != "periodic" && s.Type != "cron" {
		return
	}
	_, err := schedule.ParseNaming(s.Prefix, s.TimestampFormat, s.TimestampLocation)
	if err == nil {
		return
	}
	text, hint := textOf(err)
	field := &s.Prefix
	switch {
	case strings.Contains(text, "timestamp_location"):
		field = &s.TimestampLocation
	case strings.Contains(text, "timestamp_format"):
		field = &s.TimestampFormat
	}
	r.fail(field, text, hint)
}

// checkClients looks at the tcp transport's map of addresses to identities.
func (r *reading) checkClients(s *Serve) {
	for client, identity := range s.Clients {
		at := r.at[entryOf{&s.Clients, client}]
		_, addrErr := netip.ParseAddr(client)
		_, netErr := netip.ParsePrefix(client)
		name := identity
		if netErr == nil {
			name = strings.Replace(identity, "*", "x", 1)
		}
		text, hint := "", ""
		switch {
		case addrErr != nil && netErr != nil:
			text, hint = fmt.Sprintf("%q is neither an address nor a network", client), "as in 192.0.2.7 or 192.0.2.0/24"
		case netErr == nil && strings.Count(identity, "*") != 1:
			text, hint = fmt.Sprintf("identity %q of a network", identity), "it needs exactly one *, which stands for the client's address"
		case checkIdentity(name) != nil:
			text, hint = fmt.Sprintf("identity %q cannot be part of dataset names", identity), "use letters, digits and the signs - _ . : and space"
		default:
			continue
		}
		r.problems = append(r.problems, Problem{At: at, Text: text, Hint: hint})
	}
}

// checkLocal looks at the peer of a local connection, which must be in the same
// configuration.
func (r *reading) checkLocal(c *Config, j *Job) {
	if j.Connect == nil || j.Connect.Type != "local" {
		return
	}
	wanted := map[string]string{"push": "sink", "pull": "source"}[j.Type]
	for _, peer := range c.Jobs {
		s := peer.Serve
		if s == nil || s.Type != "local" || s.ListenerName != j.Connect.ListenerName {
			continue
		}
		if peer.Type != wanted {
			r.fail(&j.Connect.ListenerName, fmt.Sprintf("listener %q is job %q of type %s", s.ListenerName, peer.Name, peer.Type), "a "+j.Type+" job needs a "+wanted)
		}
		if peer.AppendOnly && len(j.Pruning.KeepReceiver) > 0 {
			r.fail(&j.Pruning.KeepReceiver, fmt.Sprintf("keep_receiver cannot prune the append-only sink %q", peer.Name), "leave the list empty, and give the sink its own pruning")
		}
		return
	}
	r.fail(&j.Connect.ListenerName, fmt.Sprintf("no job listens as %q", j.Connect.ListenerName), "the local transport connects jobs of one daemon")
}

// checkReplicas refuses a job that would capture what another one receives: a
// replica is sealed, and a job that pushes its own sink's content would never end.
func (r *reading) checkReplicas(c *Config, j *Job) {
	if j.Snapshotting.Type == "" || j.Snapshotting.Type == "manual" {
		return
	}
	for _, other := range c.Jobs {
		root := other.RootVolumes
		if root != "" && reaches(j.Volumes, root) {
			r.fail(&j.Volumes, fmt.Sprintf("the job would capture %s, where job %q receives replicas", root, other.Name), fmt.Sprintf("leave them out with %q: false", root+"<"))
		}
	}
}

// reaches reports whether a filter selects the root or could select something
// below it.
func reaches(f cairn.Filter, root string) bool {
	for _, rule := range f {
		if rule.Keep && strings.HasPrefix(rule.Name, root+"/") {
			return true
		}
	}
	return f.Match(root) || f.Match(root+"/client/volume")
}

// A listener is an address in use, with the field that names it.
type listener struct {
	address string
	field   any
}

// checkListeners refuses two listeners on one address.
func (r *reading) checkListeners(c *Config) {
	all := []listener{{c.Global.Control.SockPath, &c.Global.Control.SockPath}}
	for i := range c.Global.NBD {
		n := &c.Global.NBD[i]
		all = append(all, listener{n.Path, &n.Path}, listener{n.Listen, &n.Listen})
	}
	for i := range c.Global.Monitoring {
		m := &c.Global.Monitoring[i]
		all = append(all, listener{m.Listen, &m.Listen})
	}
	for _, j := range c.Jobs {
		if j.Serve == nil {
			continue
		}
		all = append(all, listener{j.Serve.Listen, &j.Serve.Listen})
		for n := range j.Serve.ClientIdentities {
			identity := &j.Serve.ClientIdentities[n]
			all = append(all, listener{filepath.Join(c.Global.Serve.StdinServer.SockDir, *identity), identity})
		}
		if j.Serve.ListenerName != "" {
			all = append(all, listener{"local:" + j.Serve.ListenerName, &j.Serve.ListenerName})
		}
	}
	for i, l := range all {
		for _, before := range all[:i] {
			if l.address != "" && collide(l.address, before.address) {
				where := "the first is the control socket"
				if at, ok := r.at[before.field]; ok {
					where = "the first is at " + at.String()
				}
				r.fail(l.field, fmt.Sprintf("a second listener on %s", strings.TrimPrefix(l.address, "local:")), where)
				break
			}
		}
	}
}

// collide reports whether two listeners cannot be open at once. An empty or
// unspecified host is every address; port 0 is a free one.
func collide(a, b string) bool {
	if a == b {
		return !strings.HasSuffix(a, ":0")
	}
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" || hostA == "local" || hostB == "local" {
		return false
	}
	return everyAddress(hostA) || everyAddress(hostB)
}

func everyAddress(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// checkVolumes looks at the declared volumes and where they lie.
func (r *reading) checkVolumes(c *Config) {
	first := map[string]*Volume{}
	for _, v := range c.Volumes {
		if err := cairn.CheckDatasetName(v.Name); err != nil {
			r.fail(&v.Name, fmt.Sprintf("volume name %q", v.Name), cairn.HintOf(err))
		}
		if other := first[v.Name]; other != nil {
			r.fail(&v.Name, fmt.Sprintf("a second volume %q", v.Name), "the first is at "+other.At.String())
		}
		first[v.Name] = v
		r.checkHead(v)
	}
	r.checkFolders(c)
}

// minSector is the unit of a volume's size in bytes.
const minSector = 512

func (r *reading) checkHead(v *Volume) {
	_, sized := r.at[&v.Size]
	_, adopted := r.at[&v.Adopt]
	switch {
	case !sized && !adopted:
		r.fail(&v.Name, fmt.Sprintf("volume %q has neither adopt nor size", v.Name), "adopt: PATH protects a disk in place, size: 10GiB makes a new one")
	case sized && adopted:
		r.fail(&v.Size, "size beside adopt", "an adopted disk has its own size")
	case v.Size%minSector != 0:
		r.fail(&v.Size, fmt.Sprintf("size %d is not a multiple of %d", v.Size, minSector), "round it up")
	}
	if v.KeepAtLeast < 1 {
		r.fail(&v.KeepAtLeast, "keep_at_least below 1", "the newest snapshot must be able to stay")
	}
}

// checkFolders refuses stores and heads that lie in one another.
func (r *reading) checkFolders(c *Config) {
	type place struct {
		path  string
		what  string
		field any
	}
	var stores, heads []place
	for _, v := range c.Volumes {
		if v.Store != "" {
			stores = append(stores, place{v.Store, fmt.Sprintf("the store of volume %q", v.Name), &v.Store})
		}
		if v.Adopt != "" {
			heads = append(heads, place{v.Adopt, fmt.Sprintf("the disk of volume %q", v.Name), &v.Adopt})
		}
	}
	for i, p := range stores {
		for _, other := range stores[:i] {
			if within(p.path, other.path) || within(other.path, p.path) {
				r.fail(p.field, fmt.Sprintf("%s lies in or around %s", p.what, other.what), "every store needs a folder of its own")
			}
		}
		if within(c.Global.State, p.path) {
			r.fail(p.field, p.what+" lies around the state folder "+c.Global.State, "use a folder of its own")
		}
	}
	for i, h := range heads {
		for _, other := range heads[:i] {
			if h.path == other.path {
				r.fail(h.field, fmt.Sprintf("%s is %s", h.what, other.what), "a disk belongs to one volume")
			}
		}
		for _, s := range stores {
			if within(h.path, s.path) {
				r.fail(h.field, fmt.Sprintf("%s lies in %s", h.what, s.what), "keep stores and disks apart")
			}
		}
	}
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
