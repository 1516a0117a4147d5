package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/mech/scsi"
	"cairn/internal/system/tape"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// tapeDrive is a line of `tape list`.
type tapeDrive struct {
	Drive      string `json:"drive"`
	Name       string `json:"name,omitempty"` // in the configuration
	Product    string `json:"product,omitempty"`
	Serial     string `json:"serial,omitempty"`
	State      string `json:"state"`  // tape, foreign (no LTFS volume), blank, empty (no medium), mounted, busy, unknown
	Medium     string `json:"medium"` // the drive's word for it
	Barcode    string `json:"barcode,omitempty"`
	Volume     string `json:"volume,omitempty"`
	UUID       string `json:"uuid,omitempty"`
	Generation uint64 `json:"generation,omitempty"`
	Lock       string `json:"lock,omitempty"`
	Protected  bool   `json:"write_protected"`
	Remaining  int64  `json:"remaining_bytes,omitempty"`
	Total      int64  `json:"total_bytes,omitempty"`
	MountedOn  string `json:"mounted_on,omitempty"`
	PID        string `json:"pid,omitempty"`
	Alerts     []int  `json:"alerts"` // numbers of the TapeAlert flags that are raised
	Problem    string `json:"problem,omitempty"`
}

// tapeMount is a tape that is mounted on this machine.
type tapeMount struct{ drive, dir, pid string }

func (p *program) tapeListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [FOLDER…]",
		Short: "List tape drives, what is in them and who uses them",
		Long: "The tape drives that the kernel knows and those of the configuration; with FOLDER also that folder of records, or\n" +
			"those in it. What is told comes from the medium's attributes: no tape is moved. A drive in use is not disturbed.",
		Example: "  cairn tape list /srv/tapes",
		RunE: run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			list, err := p.tapeDrives(ctx, "/sys", args)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(list)
			}
			return p.printTapeDrives(list)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// tapeDrives looks at every drive: those of the configuration, of the kernel, and
// the folders.
func (p *program) tapeDrives(ctx context.Context, sysfs string, folders []string) ([]tapeDrive, error) {
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	list, seen := []tapeDrive{}, map[string]bool{}
	mounts := tapeMounts(ctx)
	add := func(d tapeDrive) {
		if full := absolute(d.Drive); !seen[full] {
			seen[full] = true
			lookAt(ctx, &d, mounts)
			list = append(list, d)
		}
	}
	for _, t := range cfg.Tapes {
		if t.Drive != "" {
			add(tapeDrive{Drive: t.Drive, Name: t.Name})
		}
	}
	nodes, err := scsi.TapeNodes(sysfs)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		add(tapeDrive{Drive: n.Path, Product: strings.TrimSpace(n.Vendor + " " + n.Product + " " + n.Revision)})
	}
	for _, folder := range folders {
		found, err := tapeFolders(folder)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			add(tapeDrive{Drive: f})
		}
	}
	return list, nil
}

// tapeFolders is a folder that is a tape, or those in it that are.
func tapeFolders(folder string) ([]string, error) {
	if isTapeFolder(folder) {
		return []string{folder}, nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		kind := cairn.KindIO
		if errors.Is(err, fs.ErrNotExist) {
			kind = cairn.KindNotFound
		}
		return nil, &cairn.Error{Op: "list tapes in", Subject: folder, Kind: kind, Err: err}
	}
	var found []string
	for _, e := range entries {
		if name := filepath.Join(folder, e.Name()); e.IsDir() && isTapeFolder(name) {
			found = append(found, name)
		}
	}
	return found, nil
}

// isTapeFolder looks for the first block of a tape, or the end of an empty one.
func isTapeFolder(name string) bool {
	for _, file := range []string{"0_0_R", "0_0_F", "0_0_E"} {
		if _, err := os.Stat(filepath.Join(name, file)); err == nil {
			return true
		}
	}
	return false
}

// lookLimit bounds the look at one drive: one that does not answer must not hide
// the others.
const lookLimit = 30 * time.Second

func lookAt(ctx context.Context, line *tapeDrive, mounts []tapeMount) {
	line.State, line.Alerts = "unknown", []int{}
	for _, m := range mounts {
		if m.drive == absolute(line.Drive) {
			line.State, line.MountedOn, line.PID = "mounted", m.dir, m.pid
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	if line.MountedOn != "" && !isTapeFolder(line.Drive) {
		return
	}
	d, err := drive.Open(ctx, line.Drive, drive.Options{ReadOnly: true, Look: true})
	if err == nil {
		err = errors.Join(lookInto(ctx, line, d), d.Close())
	}
	line.judge(err)
}

// judge is what an error says of the state.
func (line *tapeDrive) judge(err error) {
	_, gone := os.Stat(line.Drive)
	switch kind := cairn.KindOf(err); {
	case err == nil, gone != nil:
	case kind == cairn.KindBusy:
		line.State = "busy"
	case kind == cairn.KindNotFound && line.State != "mounted":
		line.State = "empty"
	}
	if err != nil && line.State != "empty" {
		line.Problem = err.Error()
	}
}

func lookInto(ctx context.Context, line *tapeDrive, d drive.Drive) error {
	if s, real := d.(*drive.SCSI); real {
		if err := lookIntoDrive(ctx, line, s); err != nil {
			return err
		}
	}
	if line.State != "mounted" {
		line.State = "tape"
	}
	if err := lookIntoAttributes(ctx, line, d); err != nil {
		return err
	}
	part := d.Partitions() - 1
	room, err := d.Capacity(ctx, part)
	line.Total, line.Remaining = room.Total, room.Remaining
	if line.UUID != "" || err != nil {
		return err
	}
	return lookIntoLabel(ctx, line, d)
}

func lookIntoDrive(ctx context.Context, line *tapeDrive, s *drive.SCSI) (err error) {
	id, serial := s.Identity()
	line.Product, line.Serial, line.Protected = strings.TrimSpace(id.Vendor+" "+id.Product+" "+id.Revision), serial, s.Protected()
	if line.Medium, err = s.MediumType(ctx); err != nil {
		return err
	}
	alerts, err := s.Alerts(ctx)
	line.Alerts = append(line.Alerts, alerts...)
	return err
}

// lookIntoAttributes takes from the medium's attributes what they tell: no tape
// moves.
func lookIntoAttributes(ctx context.Context, line *tapeDrive, d drive.Drive) error {
	texts := map[uint16]*string{ltfs.AttrBarcode: &line.Barcode, ltfs.AttrVolumeName: &line.Volume}
	for id, to := range texts {
		v, err := d.Attribute(ctx, 0, id)
		if err != nil && !errors.Is(err, cairn.KindNotFound) {
			return err
		}
		*to = strings.TrimRight(string(v), " \x00")
	}
	_, lock, err := tape.MediumLock(ctx, d)
	if err != nil {
		return err
	}
	line.Lock = lock
	for part := range d.Partitions() {
		v, err := d.Attribute(ctx, part, ltfs.AttrCoherency)
		if err != nil {
			continue
		}
		if c, err := ltfs.ParseCoherency(v); err == nil {
			line.UUID, line.Generation = c.VolumeUUID, max(line.Generation, c.Generation)
		}
	}
	return nil
}

// lookIntoLabel reads the label of a folder that has no attributes. A real tape
// would have to be moved for that.
func lookIntoLabel(ctx context.Context, line *tapeDrive, d drive.Drive) error {
	if _, real := d.(*drive.SCSI); real {
		line.State = "foreign"
		return nil
	}
	t, err := tape.Open(ctx, d, line.Drive)
	switch kind := cairn.KindOf(err); {
	case err == nil:
		ix := t.Index()
		line.UUID, line.Barcode, line.Volume, line.Generation, line.Lock = t.Label().VolumeUUID, t.Barcode(), ix.Root.Name, ix.Generation, ix.Lock.String()
		return nil
	case kind == cairn.KindUnsupported:
		line.State = "blank"
		return nil
	case kind == cairn.KindCorrupt:
		line.State = "foreign"
	}
	return err
}

func (p *program) printTapeDrives(list []tapeDrive) error {
	if len(list) == 0 {
		return p.printf("no tape drive is known to the kernel or the configuration; name a folder of records to see it\n")
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Name != "" && list[j].Name == "" })
	rows := [][]string{{"DRIVE", "STATE", "BARCODE", "VOLUME", "GENERATION", "LOCK", "ROOM", "USED BY", "PRODUCT"}}
	for _, d := range list {
		name := d.Drive
		if d.Name != "" {
			name = d.Name + " (" + d.Drive + ")"
		}
		generation, room, user := "", "", ""
		if d.Generation > 0 {
			generation = strconv.FormatUint(d.Generation, 10)
		}
		if d.Total > 0 {
			room = size(d.Remaining) + " of " + size(d.Total)
		}
		if d.MountedOn != "" {
			user = fmt.Sprintf("%s (process %s)", d.MountedOn, d.PID)
		}
		lock := d.Lock
		if d.Protected {
			lock = "write protected"
		}
		rows = append(rows, []string{name, d.State, d.Barcode, d.Volume, generation, lock, room, user, strings.TrimSpace(d.Product + " " + d.Medium)})
	}
	if err := p.table(rows); err != nil {
		return err
	}
	for _, d := range list {
		if d.Problem != "" {
			p.note("%s: %s", d.Drive, d.Problem)
		}
		for _, a := range d.Alerts {
			p.note("%s: the drive raises TapeAlert %d%s", d.Drive, a, alertText(a))
		}
	}
	return nil
}

// alertText says what the TapeAlert flags that ask for something mean (SSC-4).
func alertText(flag int) string {
	texts := map[int]string{1: "having trouble reading", 2: "having trouble writing", 3: "errors that could not be corrected", 4: "the medium is faulty", 5: "reading failed", 6: "writing failed",
		7: "the medium has reached its end of life", 8: "the medium is not of data grade", 9: "the medium is write protected", 20: "the drive wants to be cleaned now",
		21: "the drive wants to be cleaned soon", 22: "the cleaning cartridge is used up", 30: "the drive has a fault, a reset may clear it", 31: "the drive has a fault"}
	if t := texts[flag]; t != "" {
		return ": " + t
	}
	return ""
}
