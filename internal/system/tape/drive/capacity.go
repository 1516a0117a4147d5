package drive

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cairn"
)

// Capacity tells the room of a partition.
func (f *Folder) Capacity(_ context.Context, part int) (Capacity, error) {
	if part < 0 || part >= len(f.parts) {
		return Capacity{}, &cairn.Error{Op: "tell capacity of tape", Subject: f.dir, Kind: cairn.KindInvalid, Err: fmt.Errorf("there is no partition %d", part)}
	}
	if err := f.measure(part); err != nil {
		return Capacity{}, err
	}
	total := f.capacity(part)
	return Capacity{Total: total, Remaining: max(0, total-f.reserve(part)-f.parts[part].used)}, nil
}

// configuration is the part of a folder's configuration file that is acted on. Other
// tools write it when they first load a folder; the rest of it is theirs.
type configuration struct {
	XMLName  xml.Name `xml:"filedebug_cartridge_config"`
	Capacity int64    `xml:"capacity_mb"`
	ReadOnly bool     `xml:"emulate_readonly"`
}

const (
	configurationFile    = "filedebug_tc_conf.xml"
	maxConfigurationSize = 64 << 10
)

// readConfiguration takes capacity and write protection from the folder, unless
// the options say more.
func (f *Folder) readConfiguration() error {
	name := filepath.Join(f.dir, configurationFile)
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return ioError("load tape folder", name, err)
	}
	var c configuration
	err = errors.Join(xml.NewDecoder(io.LimitReader(file, maxConfigurationSize)).Decode(&c), file.Close())
	if err != nil || c.Capacity < 0 {
		return &cairn.Error{Op: "load tape folder", Subject: name, Kind: cairn.KindCorrupt, Err: errors.Join(err, errors.New("it is no configuration of a tape folder")),
			Hint: "remove the file: capacity and write protection are then as by default"}
	}
	if f.opt.CapacityBytes == 0 {
		f.opt.CapacityBytes = c.Capacity << 20
	}
	f.protected = c.ReadOnly
	return nil
}

// writeConfiguration tells other tools the capacity, in the form that they read.
func (f *Folder) writeConfiguration() error {
	text := fmt.Sprintf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<filedebug_cartridge_config>\n  <dummy_io>false</dummy_io>\n  <emulate_readonly>false</emulate_readonly>\n"+
		"  <capacity_mb>%d</capacity_mb>\n  <cart_type>L5</cart_type>\n  <density_code>58</density_code>\n  <delay_mode>None</delay_mode>\n</filedebug_cartridge_config>\n",
		(f.opt.CapacityBytes+1<<20-1)>>20)
	name := filepath.Join(f.dir, configurationFile)
	if err := replaceFile(name, []byte(text)); err != nil {
		return ioError("create tape folder", name, err)
	}
	return nil
}

// Protected tells whether the medium refuses to be written.
func (f *Folder) Protected() bool { return f.protected }

// mayWrite refuses a medium that must not be written.
func (f *Folder) mayWrite(op string) error {
	switch {
	case f.protected:
		return &cairn.Error{Op: op, Subject: f.dir, Kind: cairn.KindPermission, Err: errors.New("the medium is write protected"), Hint: "emulate_readonly in its " + configurationFile + " says so"}
	case f.opt.ReadOnly:
		return &cairn.Error{Op: op, Subject: f.dir, Kind: cairn.KindPermission, Err: errors.New("the medium is write protected")}
	}
	return nil
}

// capacity of the current partition, and where the warnings begin.
func (f *Folder) capacity(part int) int64 {
	total := f.opt.CapacityBytes
	if total == 0 {
		total = defaultCapacity
	}
	if len(f.parts) == 1 {
		return total
	}
	if part == 0 {
		return total / 20
	}
	return total - total/20
}

// reserve is the room behind EarlyWarning, for the last indexes.
func (f *Folder) reserve(part int) int64 { return f.capacity(part) / 20 }
