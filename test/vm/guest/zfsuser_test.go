package guest_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// An ordinary user with the rights of the guide replicates in full, in increments and
// from a bookmark, and receives: nothing runs as root. Without one of the rights he is
// told which.
func TestZFSJobOfUser(t *testing.T) {
	inside(t)
	if pools := os.Getenv("CAIRN_AS_USER"); pools != "" { // this is the user's process
		asUser(t, strings.Fields(pools))
		return
	}
	here, there := zfsPool(t, 128), zfsPool(t, 128)
	run(t, fmt.Sprintf("chmod 666 /dev/zfs; zfs create -s -V 8M -b 16k %[1]s/a; zfs create -o mountpoint=none %[1]s/b; zfs create -o mountpoint=none %[2]s/sink", here, there))
	name := here + "/a"
	change := func(n int) {
		t.Helper()
		run(t, fmt.Sprintf("dd if=/dev/urandom of=%s bs=1M count=2 conv=fsync,notrunc status=none; zfs snapshot %[2]s@%[3]d; zfs snapshot %[4]s@%[3]d", node(t, name), name, n, here+"/b"))
	}
	user := func(want string) {
		t.Helper()
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "-test.v", "-test.run", "^TestZFSJobOfUser$")
		cmd.Dir = "/tmp"
		cmd.Env = append(os.Environ(), "HOME=/tmp", "CAIRN_AS_USER="+here+" "+there+" "+want)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("as a user: %v\n%s", err, out)
		}
	}
	change(1)
	user("permission")
	run(t, fmt.Sprintf("zfs allow -u nobody send,hold,release,bookmark,destroy,snapshot,mount %s; zfs allow -u nobody receive,create,mount,mountpoint,userprop,readonly,hold,release,destroy,rollback,bookmark,canmount %s/sink", here, there))
	user("done")
	change(2)
	user("done")
	run(t, "zfs destroy "+name+"@2; zfs destroy "+here+"/b@2") // its cursor stays
	change(3)
	user("done")
	wantSettled(t, "a user's runs", name, there+"/sink/"+name, "j", "j")
}

// asUser is the user's process: one run, and what is to come of it.
func asUser(t *testing.T, args []string) {
	if os.Geteuid() == 0 {
		t.Fatal("runs as root")
	}
	s := newSnare(t)
	f := &fault{t: t, here: args[0], there: args[1] + "/sink", snare: s}
	r, err := f.run(args[0]+"/a", args[0]+"/b")
	switch want := args[2]; {
	case want == "done" && (err != nil || states(r) != "a=done b=done"):
		t.Errorf("%s, %v", states(r), err)
	case want == "permission" && (err == nil || !strings.Contains(err.Error(), "zfs allow nobody ")):
		t.Errorf("without rights: %s, %v", states(r), err)
	}
}
