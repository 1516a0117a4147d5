package tape

import (
	"errors"
	"strings"
	"syscall"

	"cairn/ltfs"
)

const userPrefix = "user."

// userAttributes reads the attributes of the user's name space; none where the file
// system has no attributes.
func userAttributes(file string) ([]ltfs.XAttr, error) {
	n, err := syscall.Listxattr(file, nil)
	if errors.Is(err, syscall.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]byte, n)
	if n, err = syscall.Listxattr(file, names); err != nil {
		return nil, err
	}
	var list []ltfs.XAttr
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		key, own := strings.CutPrefix(name, userPrefix)
		if !own {
			continue
		}
		value := make([]byte, 64<<10) // no attribute is longer
		size, err := syscall.Getxattr(file, name, value)
		if err != nil {
			return nil, err
		}
		list = append(list, ltfs.XAttr{Key: key, Value: value[:size:size]})
	}
	return list, nil
}

// setUserAttribute sets one; ok is false where the file system has none.
func setUserAttribute(file string, x ltfs.XAttr) (ok bool, err error) {
	err = syscall.Setxattr(file, userPrefix+x.Key, x.Value, 0)
	if errors.Is(err, syscall.ENOTSUP) {
		return false, nil
	}
	return true, err
}
