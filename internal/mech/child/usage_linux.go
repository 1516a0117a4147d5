package child

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of times in /proc/PID/stat: fixed by the kernel's interface to
// programs, whatever its own clock does (proc(5)).
const userHZ = 100

// usage is the CPU time of a process and the bytes it moved in read and write
// calls, pipes included; the bytes are 0 where we may not see them.
func usage(pid int) (cpu time.Duration, moved int64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	ticks, err := parseStat(string(stat))
	if err != nil {
		return 0, 0, err
	}
	if io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)); err == nil {
		moved = parseIO(string(io))
	}
	return time.Duration(ticks) * time.Second / userHZ, moved, nil
}

// parseStat adds utime and stime, fields 14 and 15. The second field is the
// program's name in parentheses, which may hold anything.
func parseStat(stat string) (ticks int64, err error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("too few fields in /proc/PID/stat")
	}
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return ticks, nil
}

// parseIO adds rchar and wchar.
func parseIO(io string) (moved int64) {
	for line := range strings.Lines(io) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key != "rchar" && key != "wchar" {
			continue
		}
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			moved += n
		}
	}
	return moved
}
