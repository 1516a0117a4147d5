package config

import (
	"strings"
	"time"

	"cairn"
)

// Job is a configured activity. Which keys a job has depends on its type; fields
// of the other types are zero.
type Job struct {
	At Pos `yaml:"-"`

	Name string `yaml:"name" required:"*" as:"name" doc:"name, unique; it is written into what the job makes"`
	Type string `yaml:"type" required:"*" values:"push pull source sink snap archive" later:"archive=archives" doc:"what the job does"`

	Connect *Connect `yaml:"connect" for:"push pull" required:"*" doc:"how the peer is reached"`
	Serve   *Serve   `yaml:"serve" for:"source sink" required:"*" doc:"how peers reach this job"`

	Filesystems cairn.Filter `yaml:"filesystems" for:"push source snap archive" doc:"ZFS filesystems and zvols the job selects"`
	Volumes     cairn.Filter `yaml:"volumes" for:"push source snap archive" doc:"volumes the job selects"`

	RootFS      string `yaml:"root_fs" for:"pull sink" doc:"filesystem below which ZFS datasets are received: ROOT/NAME for pull, ROOT/IDENTITY/NAME for sink"`
	RootVolumes string `yaml:"root_volumes" for:"pull sink" doc:"name below which volumes are received: ROOT/NAME for pull, ROOT/IDENTITY/NAME for sink"`
	AppendOnly  bool   `yaml:"append_only" for:"sink" doc:"clients can neither destroy nor rewrite what they sent"`

	Interval     Interval     `yaml:"interval" for:"pull" required:"*" doc:"time between pulls, or manual"`
	Snapshotting Snapshotting `yaml:"snapshotting" for:"push source snap" required:"*" doc:"when versions are captured"`

	Send        Send        `yaml:"send" for:"push source" doc:"options of the sending side"`
	Recv        Recv        `yaml:"recv" for:"pull sink" doc:"options of the receiving side"`
	Replication Replication `yaml:"replication" for:"push pull" doc:"how replication is done"`

	ConflictResolution ConflictResolution `yaml:"conflict_resolution" for:"push pull" doc:"what to do when the sides disagree"`

	Pruning  Pruning  `yaml:"pruning" for:"push pull snap sink" required:"push pull snap" doc:"what is kept"`
	Watchdog Watchdog `yaml:"watchdog" doc:"limits of standstill of this job"`

	To       map[string]any   `yaml:"to" for:"archive" doc:"where an archive job writes"`
	Schedule map[string]any   `yaml:"schedule" for:"archive" doc:"when an archive job runs"`
	Keep     []cairn.KeepRule `yaml:"keep" for:"archive" doc:"which archive sets are kept"`
}

// Active reports whether the job runs by itself, as opposed to serving peers.
func (j *Job) Active() bool { return j.Type == "push" || j.Type == "pull" || j.Type == "snap" }

// Interval is a time between runs, or none: the job then runs when told to.
type Interval struct {
	Manual bool
	Every  time.Duration
}

// Connect says how an active job reaches its peer.
type Connect struct {
	Type string `yaml:"type" required:"*" values:"tcp tls local ssh+stdinserver" doc:"transport"`

	Address  string `yaml:"address" for:"tcp tls" required:"*" as:"address" doc:"HOST:PORT of the peer"`
	CA       string `yaml:"ca" for:"tls" required:"*" as:"path" doc:"certificate authority that signed the peer's certificate (PEM)"`
	Cert     string `yaml:"cert" for:"tls" required:"*" as:"path" doc:"our certificate (PEM); its common name is our identity"`
	Key      string `yaml:"key" for:"tls" required:"*" as:"path" doc:"its key (PEM)"`
	ServerCN string `yaml:"server_cn" for:"tls" required:"*" doc:"common name the peer's certificate must have"`

	ListenerName   string `yaml:"listener_name" for:"local" required:"*" doc:"listener of a passive job in the same daemon"`
	ClientIdentity string `yaml:"client_identity" for:"local" required:"*" as:"identity" doc:"who we are to that job"`

	Host                 string   `yaml:"host" for:"ssh+stdinserver" required:"*" doc:"host to log in to"`
	User                 string   `yaml:"user" for:"ssh+stdinserver" required:"*" doc:"user to log in as"`
	Port                 int      `yaml:"port" for:"ssh+stdinserver" required:"*" doc:"port of the ssh server"`
	IdentityFile         string   `yaml:"identity_file" for:"ssh+stdinserver" required:"*" as:"path" doc:"ssh key; its line in authorized_keys there forces the command cairn stdinserver IDENTITY"`
	TransportOpenCommand []string `yaml:"transport_open_command" for:"ssh+stdinserver" doc:"program and arguments run instead of ssh; its standard input and output are the connection"`
	SSHCommand           string   `yaml:"ssh_command" for:"ssh+stdinserver" doc:"ssh program (default ssh)"`
	Options              []string `yaml:"options" for:"ssh+stdinserver" doc:"values of ssh -o"`

	DialTimeout time.Duration `yaml:"dial_timeout" default:"10s local=2s" as:"orzero" doc:"limit for making the connection; 0 is the usual one"`
}

// Serve says how peers reach a passive job.
type Serve struct {
	Type string `yaml:"type" required:"*" values:"tcp tls local stdinserver" doc:"transport"`

	Listen         string            `yaml:"listen" for:"tcp tls" required:"*" as:"address" doc:"HOST:PORT to listen on; :PORT is every address"`
	ListenFreebind bool              `yaml:"listen_freebind" for:"tcp tls" doc:"listen on an address that no interface has yet"`
	Clients        map[string]string `yaml:"clients" for:"tcp" required:"*" doc:"client address or network (CIDR) → identity; a network's identity has one * for the address"`

	CA               string        `yaml:"ca" for:"tls" required:"*" as:"path" doc:"certificate authority that signed the clients' certificates (PEM)"`
	Cert             string        `yaml:"cert" for:"tls" required:"*" as:"path" doc:"our certificate (PEM)"`
	Key              string        `yaml:"key" for:"tls" required:"*" as:"path" doc:"its key (PEM)"`
	ClientCNs        []string      `yaml:"client_cns" for:"tls" required:"*" as:"identity" doc:"common names of the clients that are let in; the name is the client's identity"`
	HandshakeTimeout time.Duration `yaml:"handshake_timeout" for:"tls" default:"10s" as:"orzero" doc:"limit for a client's handshake; 0 is the usual one"`

	ListenerName string `yaml:"listener_name" for:"local" required:"*" doc:"name that local jobs connect to"`

	ClientIdentities []string `yaml:"client_identities" for:"stdinserver" required:"*" as:"identity" doc:"identities that ssh clients may be given by their forced command; one socket each"`
}

// SoleClient reports whether only one client can ever connect.
func (s *Serve) SoleClient() bool {
	for client := range s.Clients {
		if strings.Contains(client, "/") {
			return false
		}
	}
	return len(s.Clients)+len(s.ClientCNs)+len(s.ClientIdentities) == 1
}

// Snapshotting says when versions are captured and how they are named.
type Snapshotting struct {
	Type              string        `yaml:"type" required:"*" values:"periodic cron manual" doc:"what starts a capture"`
	Prefix            string        `yaml:"prefix" for:"periodic cron" required:"*" doc:"beginning of the snapshots' names"`
	Interval          time.Duration `yaml:"interval" for:"periodic" required:"*" as:"span" doc:"time between captures of a dataset"`
	Cron              string        `yaml:"cron" for:"cron" required:"*" as:"cron" doc:"five cron fields, with an optional leading one for seconds"`
	TimestampFormat   string        `yaml:"timestamp_format" for:"periodic cron" default:"dense" doc:"rest of the snapshots' names: dense, human, iso-8601, unix-seconds or a Go layout"`
	TimestampLocation string        `yaml:"timestamp_location" for:"periodic cron" default:"UTC" doc:"time zone of the timestamp"`
	Hooks             []Hook        `yaml:"hooks" for:"periodic cron" doc:"programs run before and after the capture of each dataset"`
}

// Hook runs around a capture.
type Hook struct {
	Type        string        `yaml:"type" required:"*" values:"command postgres-checkpoint mysql-lock-tables" doc:"kind of hook"`
	Path        string        `yaml:"path" for:"command" required:"*" as:"path" doc:"program to run"`
	DSN         string        `yaml:"dsn" for:"postgres-checkpoint mysql-lock-tables" required:"*" secret:"true" later:"hooks of databases" instead:"write type: command, with the path of a script that calls psql or mysql: 'Databases' in docs/guide/configuration.md has both" doc:"database to connect to"`
	Timeout     time.Duration `yaml:"timeout" default:"30s" doc:"limit for one run of the hook"`
	ErrIsFatal  bool          `yaml:"err_is_fatal" doc:"a failure before the capture prevents it"`
	Filesystems cairn.Filter  `yaml:"filesystems" doc:"datasets the hook runs for, volumes too (default all)"`
}

// Send are options of the sending side.
type Send struct {
	Encrypted        bool           `yaml:"encrypted" doc:"send encrypted filesystems as they are stored, and no others"`
	Raw              bool           `yaml:"raw" doc:"zfs send -w"`
	SendProperties   bool           `yaml:"send_properties" doc:"zfs send -p"`
	BackupProperties bool           `yaml:"backup_properties" doc:"zfs send -b"`
	LargeBlocks      bool           `yaml:"large_blocks" doc:"zfs send -L"`
	Compressed       bool           `yaml:"compressed" doc:"zfs send -c"`
	EmbeddedData     bool           `yaml:"embedded_data" doc:"zfs send -e"`
	Saved            bool           `yaml:"saved" later:"steps without a snapshot" doc:"zfs send -S"`
	BandwidthLimit   BandwidthLimit `yaml:"bandwidth_limit" doc:"limit over all streams the job sends"`
}

// Recv are options of the receiving side.
type Recv struct {
	Properties     Properties     `yaml:"properties" doc:"ZFS properties of what is received"`
	Placeholder    Placeholder    `yaml:"placeholder" doc:"ZFS filesystems that only hold others"`
	BandwidthLimit BandwidthLimit `yaml:"bandwidth_limit" doc:"limit over all streams the job receives"`
	Hashes         bool           `yaml:"hashes" doc:"volumes: keep a hash of every block that is received, so that rot is found here, without the sender"`
}

// Properties are ZFS properties set on receive.
type Properties struct {
	Inherit  []string          `yaml:"inherit" doc:"zfs recv -x"`
	Override map[string]string `yaml:"override" doc:"zfs recv -o"`
}

// Placeholder says how ZFS filesystems are made that only hold others.
type Placeholder struct {
	Encryption string `yaml:"encryption" default:"unspecified" values:"unspecified inherit off" doc:"encryption of a placeholder"`
}

// BandwidthLimit is a token bucket over a job's streams.
type BandwidthLimit struct {
	Max            int64 `yaml:"max" default:"-1 B" as:"rate" doc:"bytes (B) or bits (b, bit) per second, with Ki, Mi, Gi or K, M, G; -1 B is no limit"`
	BucketCapacity int64 `yaml:"bucket_capacity" default:"128 KiB" as:"size" doc:"how much may pass at once"`
}

// Limited reports whether there is a limit.
func (b BandwidthLimit) Limited() bool { return b.Max >= 0 }

// Replication says how replication is done.
type Replication struct {
	Protection  Protection  `yaml:"protection" doc:"which versions are held while they may be needed"`
	Concurrency Concurrency `yaml:"concurrency" doc:"how much runs at once"`
	Clones      string      `yaml:"clones" default:"keep" values:"keep copy" doc:"a ZFS clone begins as a clone at the receiver where that has its origin, or is always sent whole"`
}

// Protection names what a step must be protected for.
type Protection struct {
	Initial     string `yaml:"initial" default:"guarantee_resumability" values:"guarantee_resumability guarantee_incremental guarantee_nothing" doc:"protection of full sends"`
	Incremental string `yaml:"incremental" default:"guarantee_resumability" values:"guarantee_resumability guarantee_incremental guarantee_nothing" doc:"protection of incremental sends"`
}

// Concurrency says how much of a run goes on at once.
type Concurrency struct {
	Steps         int `yaml:"steps" default:"1" as:"positive" doc:"datasets planned and replicated at once"`
	SizeEstimates int `yaml:"size_estimates" default:"4" as:"positive" doc:"size estimates made at once"`
}

// ConflictResolution says what to do when the sides disagree.
type ConflictResolution struct {
	InitialReplication string `yaml:"initial_replication" default:"most_recent" values:"most_recent all fail" doc:"which versions of a dataset the receiver does not have yet are sent"`
	Renamed            string `yaml:"renamed" default:"follow" values:"follow fail" doc:"a dataset that the receiver has under another name, by its GUIDs, is renamed there, or is an error; it is never sent anew"`
}

// Pruning says what is kept. No rules keep everything; a version goes only when
// every rule of its side lets it go.
type Pruning struct {
	KeepSender   []cairn.KeepRule `yaml:"keep_sender" for:"push pull" required:"*" doc:"rules for the sending side"`
	KeepReceiver []cairn.KeepRule `yaml:"keep_receiver" for:"push pull" required:"*" doc:"rules for the receiving side"`
	Keep         []cairn.KeepRule `yaml:"keep" for:"snap sink" required:"*" doc:"rules for the datasets of this job"`
	Interval     time.Duration    `yaml:"interval" for:"sink" default:"1h" as:"span" doc:"time between prunes of a sink"`
}
