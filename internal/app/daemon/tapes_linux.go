package daemon

import "cairn/internal/front/ltfsmount"

// tapeMounts finds the mounted tapes of this machine.
type tapeMounts = ltfsmount.Mounts
