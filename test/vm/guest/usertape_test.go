package guest_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"cairn/internal/mech/scsi"
	"cairn/internal/testkit/scsitape"
)

// userTape is a SCSI device of the kernel whose commands are carried out by this
// process: the target subsystem's user backend, looped back to this machine. The
// ring is that of include/uapi/linux/target_core_user.h.
type userTape struct {
	target  *scsitape.Drive
	uio     *os.File
	ring    []byte
	stopped chan struct{}
}

const (
	targetTree = "/sys/kernel/config/target"
	targetCore = targetTree + "/core/user_0/tape"
	targetPort = targetTree + "/loopback/naa.6001405ca12d0001/tpgt_1"

	// Offsets in the mailbox and in an entry, which are packed structures.
	ringOffset, ringSize, ringHead, ringTail          = 4, 8, 12, 64
	entryVectors, entryCommand, entryVector           = 8, 24, 48
	answerStatus, answerLength, answerSense, senseMax = 8, 12, 16, 96
	readLengthValid                                   = 2
)

// newUserTape makes the device and returns its generic node.
func newUserTape(t *testing.T, target *scsitape.Drive) string {
	t.Helper()
	run(t, "modprobe -a target_core_user tcm_loop sg && (mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config)")
	run(t, fmt.Sprintf("mkdir -p %[1]s && echo dev_config=cairn/tape,dev_size=1048576 >%[1]s/control && echo 1 >%[1]s/enable && echo 0 >%[1]s/attrib/pgr_support && udevadm settle", targetCore))
	undo(t, "rmdir "+targetCore+" "+filepath.Dir(targetCore))
	u := &userTape{target: target, stopped: make(chan struct{})}
	u.open(t)
	go u.serve()
	t.Cleanup(u.close)
	run(t, fmt.Sprintf("mkdir -p %[1]s/lun/lun_0 && echo naa.6001405ca12d0002 >%[1]s/nexus && ln -s %[2]s %[1]s/lun/lun_0/port && udevadm settle", targetPort, targetCore))
	undo(t, fmt.Sprintf("rm %[1]s/lun/lun_0/port && rmdir %[1]s/lun/lun_0 %[1]s && rmdir %[2]s", targetPort, filepath.Dir(targetPort)))
	nodes, err := scsi.TapeNodes("/sys")
	if err != nil || len(nodes) != 1 {
		t.Fatalf("tapes: %v %v", nodes, err)
	}
	return nodes[0].Path
}

func (u *userTape) open(t *testing.T) {
	t.Helper()
	names, err := filepath.Glob("/sys/class/uio/uio*")
	if err != nil || len(names) != 1 {
		t.Fatalf("user devices: %v %v", names, err)
	}
	text, err := os.ReadFile(filepath.Join(names[0], "maps/map0/size"))
	if err != nil {
		t.Fatal(err)
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(text)), 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	if u.uio, err = os.OpenFile("/dev/"+filepath.Base(names[0]), os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	if u.ring, err = syscall.Mmap(int(u.uio.Fd()), 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
}

func (u *userTape) word(at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.ring[at])) }

// serve carries out what stands in the ring until the device is closed.
func (u *userTape) serve() {
	defer close(u.stopped)
	event := make([]byte, 4)
	for {
		if _, err := u.uio.Read(event); err != nil {
			return
		}
		for atomic.LoadUint32(u.word(ringTail)) != atomic.LoadUint32(u.word(ringHead)) {
			tail := atomic.LoadUint32(u.word(ringTail))
			entry := u.ring[*u.word(ringOffset)+tail:]
			head := binary.LittleEndian.Uint32(entry)
			if head&7 == 1 {
				u.carry(entry)
			}
			atomic.StoreUint32(u.word(ringTail), (tail+head&^7)%*u.word(ringSize))
		}
		if _, err := u.uio.Write(event); err != nil {
			return
		}
	}
}

// carry carries one command out and puts the answer in its place.
func (u *userTape) carry(entry []byte) {
	cdb := make([]byte, 16)
	copy(cdb, u.ring[binary.LittleEndian.Uint64(entry[entryCommand:]):])
	var pieces [][]byte
	total := 0
	for i := range binary.LittleEndian.Uint32(entry[entryVectors:]) {
		v := entry[entryVector+16*i:]
		at, n := binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])
		pieces = append(pieces, u.ring[at:at+n])
		total += int(n)
	}
	data := make([]byte, 0, total)
	for _, p := range pieces {
		data = append(data, p...)
	}
	r, err := u.target.Carry(scsi.Command{CDB: cdb, In: data, Out: data})
	if err != nil {
		r = scsi.Result{Status: scsi.Busy}
	}
	for _, p := range pieces {
		data = data[copy(p, data):]
	}
	entry[7] |= readLengthValid
	clear(entry[answerStatus : answerSense+senseMax])
	entry[answerStatus] = byte(r.Status)
	binary.LittleEndian.PutUint32(entry[answerLength:], uint32(r.Received))
	copy(entry[answerSense:answerSense+senseMax], r.Sense)
}

func (u *userTape) close() {
	_ = syscall.Munmap(u.ring)
	_ = u.uio.Close()
	select {
	case <-u.stopped:
	case <-time.After(time.Second):
	}
}

// program runs the program that the host has put beside the tests.
func program(t *testing.T, arguments string) string {
	t.Helper()
	return run(t, "/tmp/cairn "+arguments)
}

// A tape drive that the kernel drives as it drives any: our answers come from a
// model of an LTO drive in user space, everything between is the kernel's. Format,
// put, list, check, lock, extract, mount and wipe go through the program itself; a read
// of records that are shorter than asked for, filemarks and reservations through the
// kernel's own paths.
func TestTapeThroughKernel(t *testing.T) {
	inside(t)
	target := scsitape.New()
	target.Tape.Room = [2]int64{2e9, 20e9}
	node := newUserTape(t, target)
	dir := t.TempDir()
	run(t, "cp /host/cairn /tmp/cairn") // the share is slow, and the program is started often
	run(t, fmt.Sprintf("mkdir -p %[1]s/in/deep && head -c 1500000 /dev/urandom >%[1]s/in/big && echo small >%[1]s/in/deep/small && ln -s big %[1]s/in/link", dir))
	t.Log(program(t, "tape format "+node+" --name Kernel --barcode KRN001 --yes"))
	t.Log(program(t, fmt.Sprintf("tape put %s %s/in", node, dir)))
	if out := program(t, "tape list"); !strings.Contains(out, node) || !strings.Contains(out, "KRN001") || !strings.Contains(out, "CAIRN TEST TAPE") {
		t.Errorf("the list of drives: %s", out)
	}
	program(t, "tape lock "+node)
	if out, err := shell("/tmp/cairn tape wipe --yes " + node); err == nil {
		t.Errorf("a locked tape was wiped: %s", out)
	}
	program(t, "tape lock --unlock "+node)
	t.Log(program(t, "tape info "+node))
	t.Log(program(t, "tape check "+node))
	program(t, fmt.Sprintf("tape extract %s --to %s/out", node, dir))
	run(t, fmt.Sprintf("diff -r %[1]s/in %[1]s/out/in", dir))
	run(t, fmt.Sprintf("modprobe fuse && mkdir %[1]s/mnt && (/tmp/cairn tape mount %[2]s %[1]s/mnt >%[1]s/log 2>&1 & ) && for i in $(seq 600); do mountpoint -q %[1]s/mnt && break; sleep 0.1; done", dir, node))
	run(t, fmt.Sprintf("cd %[1]s && diff -r in mnt/in && cp -r in mnt/second && /tmp/cairn tape sync mnt && diff -r in mnt/second || { cat log; exit 1; }", dir))
	if out, err := shell("/tmp/cairn tape info " + node); err == nil {
		t.Errorf("a mounted drive was opened a second time: %s", out)
	} else {
		t.Log(out)
	}
	t.Log(program(t, fmt.Sprintf("tape unmount %s/mnt", dir)))
	program(t, fmt.Sprintf("tape extract %s --to %s/out2", node, dir))
	run(t, fmt.Sprintf("diff -r %[1]s/in %[1]s/out2/second", dir))
	t.Log(program(t, "tape wipe --yes "+node))
	if target.Tape.Partitions() != 1 {
		t.Error("the wiped medium has two partitions still")
	}
	if target.Locked {
		t.Error("the medium was left locked in the drive")
	}
	t.Logf("%d WRITE(6), %d READ(6), %d LOCATE(16), %d WRITE FILEMARKS(6)", target.Seen(0x0a), target.Seen(0x08), target.Seen(0x92), target.Seen(0x10))
	if target.Seen(0x0a) == 0 {
		t.Error("nothing was written through the kernel")
	}
}
