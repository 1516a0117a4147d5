//go:build !linux

package kernel

import (
	"os"
	"syscall"
)

// Datasync makes data and size durable.
func Datasync(f *os.File) error { return f.Sync() }

// Allocate is refused here.
func Allocate(*os.File, int64, int64) error { return syscall.EOPNOTSUPP }

// Punch is refused here.
func Punch(*os.File, int64, int64) error { return syscall.EOPNOTSUPP }

// Zero is refused here.
func Zero(*os.File, int64, int64) error { return syscall.EOPNOTSUPP }

// Data says that all is data.
func Data(_ *os.File, off, size int64) (start, end int64, err error) { return off, size, nil }

// Space is refused here.
func Space(string) (free, total int64, err error) { return 0, 0, syscall.EOPNOTSUPP }

// FileSystem is refused here.
func FileSystem(string) (string, error) { return "", syscall.EOPNOTSUPP }

// Lock is refused here.
func Lock(*os.File) error { return syscall.EOPNOTSUPP }

// FreeBind is refused here.
func FreeBind(syscall.RawConn) error { return syscall.EOPNOTSUPP }

// DeviceSize is refused here.
func DeviceSize(*os.File) (int64, error) { return 0, syscall.EOPNOTSUPP }

// DeviceSector is refused here.
func DeviceSector(*os.File) (int, error) { return 0, syscall.EOPNOTSUPP }

// OpenDevice is refused here.
func OpenDevice(string) (*os.File, error) { return nil, syscall.EOPNOTSUPP }

// OpenDirect is refused here.
func OpenDirect(*os.File) (*os.File, error) { return nil, syscall.EOPNOTSUPP }

// Identify is refused here.
func Identify(*os.File) (Identity, error) { return Identity{}, syscall.EOPNOTSUPP }

// OpenSCSI is refused here.
func OpenSCSI(string) (*os.File, error) { return nil, syscall.EOPNOTSUPP }

// ReserveSCSI is refused here.
func ReserveSCSI(*os.File, int) (int, error) { return 0, syscall.EOPNOTSUPP }

// SCSI is refused here.
func SCSI(*os.File, SCSICommand) (SCSIAnswer, error) { return SCSIAnswer{}, syscall.EOPNOTSUPP }
