package cli

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"
)

// tapeMounts asks the mounted tapes of this machine which drive they use. One whose
// process does not answer within seconds is left out.
func tapeMounts(ctx context.Context) []tapeMount {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var found []tapeMount
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasSuffix(fields[2], ".ltfs") {
			continue
		}
		dir := unescapeMount(fields[1])
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		m, err := await(short, "ask mount", func() (tapeMount, error) {
			name, err := mountAttr(dir, attrDrive)
			if err != nil {
				return tapeMount{}, err
			}
			pid, err := mountAttr(dir, attrPID)
			return tapeMount{drive: name, dir: dir, pid: pid}, err
		})
		cancel()
		if err == nil {
			found = append(found, m)
		}
	}
	return found
}

// unescapeMount undoes the kernel's writing of spaces and the like as "\040".
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
