package scsi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"cairn"
	"cairn/internal/mech/kernel"
)

// maxSg is the longest record that is asked of the generic SCSI interface.
const maxSg = 1 << 20

// sg is a generic SCSI node of Linux.
type sg struct {
	file     *os.File
	transfer int
}

// OpenSg opens a node such as /dev/sg1 for us alone: KindBusy when another program
// has it, KindNotFound, KindPermission, KindUnsupported elsewhere than on Linux.
func OpenSg(path string) (*Watched, error) {
	f, err := kernel.OpenSCSI(path)
	if err != nil {
		return nil, openFailure(path, err)
	}
	n, err := kernel.ReserveSCSI(f, maxSg)
	if err != nil || n < 4096 {
		_ = f.Close()
		return nil, &cairn.Error{Op: "open tape drive", Subject: path, Kind: cairn.KindInvalid, Err: errors.New("it is not a generic SCSI node"),
			Hint: "cairn tape list shows the drives"}
	}
	return Watch(&sg{file: f, transfer: min(n, maxSg)}, path), nil
}

func openFailure(path string, err error) error {
	kind, hint := cairn.KindIO, ""
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		kind, hint = cairn.KindNotFound, "cairn tape list shows the drives"
	case errors.Is(err, fs.ErrPermission):
		kind, hint = cairn.KindPermission, "tape drives are for root, or for whom the node's group lets in"
	case errors.Is(err, syscall.EBUSY):
		kind, hint = cairn.KindBusy, "another program uses the drive; unmount the tape first"
	case errors.Is(err, syscall.EOPNOTSUPP):
		kind, hint = cairn.KindUnsupported, "tape drives are driven on Linux only"
	}
	return &cairn.Error{Op: "open tape drive", Subject: path, Kind: kind, Err: err, Hint: hint}
}

// Carry sends one command.
func (s *sg) Carry(c Command) (Result, error) {
	sense := make([]byte, 96)
	a, err := kernel.SCSI(s.file, kernel.SCSICommand{CDB: c.CDB, In: c.In, Out: c.Out, Sense: sense, Limit: c.limit()})
	if err != nil {
		return Result{}, s.fail(c, cairn.KindIO, err)
	}
	if a.Status == 0 && a.Host != 0 {
		return Result{}, s.hostFailure(c, a)
	}
	return Result{Status: Status(a.Status &^ 1), Sense: sense[:min(a.SenseLength, len(sense))], Received: len(c.In) - min(max(a.Residual, 0), len(c.In))}, nil
}

func (s *sg) fail(c Command, kind cairn.Kind, err error) error {
	return &cairn.Error{Op: "use tape drive", Subject: s.file.Name(), Kind: kind, Err: fmt.Errorf("%s: %w", Name(c.CDB), err)}
}

// hostFailures are what the kernel says of a command that did not reach the device
// or did not come back (scsi/scsi_status.h).
var hostFailures = map[uint16]struct {
	kind cairn.Kind
	text string
}{
	1: {cairn.KindUnavailable, "the drive is not connected"}, 2: {cairn.KindUnavailable, "the bus is busy"},
	3: {cairn.KindStuck, "the drive did not answer in time and the command was aborted"},
	4: {cairn.KindUnavailable, "there is no such target"}, 5: {cairn.KindIO, "the command was aborted"},
	8: {cairn.KindIO, "the bus or the drive was reset"}, 0xe: {cairn.KindUnavailable, "the transport was disrupted"},
	0xf: {cairn.KindUnavailable, "the transport failed"},
}

func (s *sg) hostFailure(c Command, a kernel.SCSIAnswer) error {
	if f, known := hostFailures[a.Host]; known {
		return s.fail(c, f.kind, fmt.Errorf("%s (host status %#x, limit %v)", f.text, a.Host, c.limit()))
	}
	return s.fail(c, cairn.KindIO, fmt.Errorf("the host adapter failed, status %#x", a.Host))
}

// MaxTransfer is the longest transfer of the interface.
func (s *sg) MaxTransfer() int { return s.transfer }

// Close closes the node.
func (s *sg) Close() error { return s.file.Close() }

// Node is a generic SCSI node that the kernel knows.
type Node struct {
	Path string // "/dev/sg1"
	Identity
}

// TapeNodes lists the tape drives below a sysfs ("/sys"), in order of their
// numbers; none where the kernel has no generic SCSI nodes.
func TapeNodes(sysfs string) ([]Node, error) {
	class := filepath.Join(sysfs, "class", "scsi_generic")
	entries, err := os.ReadDir(class)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &cairn.Error{Op: "list tape drives", Subject: class, Kind: cairn.KindIO, Err: err}
	}
	var nodes []Node
	for _, e := range entries {
		device := filepath.Join(class, e.Name(), "device")
		if readLine(filepath.Join(device, "type")) != strconv.Itoa(TypeTape) {
			continue
		}
		nodes = append(nodes, Node{Path: "/dev/" + e.Name(), Identity: Identity{Type: TypeTape, Vendor: readLine(filepath.Join(device, "vendor")),
			Product: readLine(filepath.Join(device, "model")), Revision: readLine(filepath.Join(device, "rev"))}})
	}
	sort.Slice(nodes, func(i, j int) bool { return number(nodes[i].Path) < number(nodes[j].Path) })
	return nodes, nil
}

// readLine is a sysfs value; empty when there is none: the device may just go.
func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func number(path string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(path, "/dev/sg")) // others come first
	return n
}
