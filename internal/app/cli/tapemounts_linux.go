package cli

import (
	"context"
	"strconv"

	"cairn/internal/front/ltfsmount"
)

// tapeMounts asks the mounted tapes of this machine which drive they use. One whose
// process does not answer within seconds is left out.
func tapeMounts(ctx context.Context) (found []tapeMount) {
	var mounts ltfsmount.Mounts
	list, err := mounts.List(ctx)
	if err != nil {
		return nil
	}
	for _, t := range list {
		if t.Drive != "" {
			found = append(found, tapeMount{drive: t.Drive, dir: t.Folder, pid: strconv.Itoa(t.PID)})
		}
	}
	return found
}
