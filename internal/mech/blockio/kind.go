package blockio

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"cairn"
)

// Kind classifies an error of this package's calls; an error that has a kind
// keeps it.
func Kind(err error) cairn.Kind {
	if k := cairn.KindOf(err); k != cairn.KindOther {
		return k
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return cairn.KindCanceled
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return cairn.KindSpace
	case errors.Is(err, fs.ErrNotExist):
		return cairn.KindNotFound
	case errors.Is(err, fs.ErrExist):
		return cairn.KindExists
	case errors.Is(err, fs.ErrPermission):
		return cairn.KindPermission
	case errors.Is(err, syscall.EBUSY):
		return cairn.KindBusy
	case errors.Is(err, syscall.EOPNOTSUPP):
		return cairn.KindUnsupported
	}
	return cairn.KindIO
}
