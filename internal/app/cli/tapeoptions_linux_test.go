package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/internal/app/config"
	"cairn/internal/policy/syncpolicy"
)

func TestMountOptions(t *testing.T) {
	yes, no := true, false
	id := func(n uint32) *uint32 { return &n }
	for _, c := range []struct {
		text  string
		check func(o mountOptions) bool
	}{
		{"rw,noauto,user,_netdev,x-systemd.automount,defaults", func(o mountOptions) bool { return !o.readOnly }},
		{"sync_type=time@7", func(o mountOptions) bool { return o.policy == syncpolicy.Policy{Every: 7 * time.Minute} }},
		{"sync_type=close", func(o mountOptions) bool { return o.policy == syncpolicy.Policy{OnClose: true} }},
		{"sync_type=unmount", func(o mountOptions) bool { return o.policy == syncpolicy.Policy{} }},
		{"sync=close,time@90s,ro", func(o mountOptions) bool {
			return o.policy == syncpolicy.Policy{OnClose: true, Every: 90 * time.Second} && o.readOnly
		}},
		{"rules=size=1M/name=*.txt:*.j*", func(o mountOptions) bool { return o.rules.MaxSize == 1<<20 && len(o.rules.Names) == 2 }},
		{"rollback_mount=12", func(o mountOptions) bool { return o.generation == 12 }},
		{"devname=/dev/sg3,tape_backend=sg,work_directory=/tmp,min_pool_size=25,max_pool_size=50,quiet", func(o mountOptions) bool { return o.drive == "/dev/sg3" && o.buffer == 50<<20 }},
		{"umask=077,uid=1000,gid=100,noallow_other", func(o mountOptions) bool {
			return o.fileMode == 0o700 && o.dirMode == 0o700 && *o.uid == *id(1000) && *o.gid == 100 && *o.allowOther == no
		}},
		{"fmask=133,dmask=022,allow_other", func(o mountOptions) bool { return o.fileMode == 0o644 && o.dirMode == 0o755 && *o.allowOther == yes }},
		{"fsync=data,index_budget=10GiB,sync_calls=off", func(o mountOptions) bool { return o.fsync == "data" && o.budget == 10<<30 && o.noSync }},
	} {
		var o mountOptions
		if err := o.parse(c.text); err != nil || !c.check(o) {
			t.Errorf("%s: %+v, %v", c.text, o, err)
		}
	}
	for text, want := range map[string]string{
		"sync_type=never": "no sync policy", "nonsense": "no such option", "umask=9": "invalid syntax", "fsync=some": "one of: index, incremental, data",
		"atime": "not changed by reading", "symlink_type=live": "one of: posix", "rules=name=x": "lacks size", "umask=777": "nobody could use anything",
	} {
		var o mountOptions
		if err := o.parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The configuration speaks first, then -o, then the flags.
func TestMountOptionsOrder(t *testing.T) {
	o := mountOptions{}
	if err := o.configure(config.Tape{Drive: "/dev/sg1", Sync: []string{"close"}, Fsync: "data", SyncCalls: "off", IndexBudget: 7, Labels: "A*"}); err != nil {
		t.Fatal(err)
	}
	if err := o.parse("fsync=incremental"); err != nil {
		t.Fatal(err)
	}
	if o.drive != "/dev/sg1" || !o.policy.OnClose || o.fsync != "incremental" || !o.noSync || o.budget != 7 || o.labels != "A*" {
		t.Errorf("%+v", o)
	}
	if !belongs("A*", "ABC123", "x") || !belongs("", "x") || belongs("A*", "B12345", "B") {
		t.Error("labels")
	}
}

// mount(8) calls a link to the program.
func TestArguments(t *testing.T) {
	for _, c := range []struct{ argv, want string }{
		{"cairn tape ls X", "tape ls X"},
		{"/sbin/mount.cairn-ltfs /srv/T /mnt -o rw,sync_type=close", "tape mount --background /srv/T /mnt -o rw,sync_type=close"},
		{"mount.ltfs offsite /mnt -n -v -t ltfs -o ro", "tape mount --background offsite /mnt -o ro"},
		{"mount.fuse.cairn a b -f", "version"},
	} {
		if got := Arguments(strings.Fields(c.argv)); !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%s: %q", c.argv, got)
		}
	}
}
