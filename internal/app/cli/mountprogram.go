package cli

import (
	"path/filepath"
	"slices"
	"strings"
)

// mountPrograms are names under which mount(8) calls this program for a line of
// fstab: a link to it in /sbin, mount.TYPE for the type TYPE.
var mountPrograms = []string{"mount.cairn-ltfs", "mount.ltfs", "mount.fuse.cairn"}

// Arguments are the arguments of a command. Called by mount(8), as `mount.TYPE
// DRIVE DIR [-sfnv] [-t TYPE] [-o OPTIONS]`, they are those of `tape mount` in the
// background.
func Arguments(argv []string) []string {
	if len(argv) == 0 || !slices.Contains(mountPrograms, filepath.Base(argv[0])) {
		return argv[min(1, len(argv)):]
	}
	args := []string{"tape", "mount", "--background"}
	rest := argv[1:]
	for i := 0; i < len(rest); i++ {
		switch {
		case rest[i] == "-o" && i+1 < len(rest):
			i++
			args = append(args, "-o", rest[i])
		case rest[i] == "-t" || rest[i] == "-N":
			i++
		case strings.HasPrefix(rest[i], "-") && strings.Trim(rest[i], "-sfnv") == "":
			if strings.Contains(rest[i], "f") { // a pretended mount
				return []string{"version"}
			}
		default:
			args = append(args, rest[i])
		}
	}
	return args
}
