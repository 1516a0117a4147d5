//go:build !linux

package tape

import "cairn/ltfs"

// userAttributes reads none: extended attributes are kept on Linux only.
func userAttributes(string) ([]ltfs.XAttr, error) { return nil, nil }

// setUserAttribute sets none.
func setUserAttribute(string, ltfs.XAttr) (ok bool, err error) { return false, nil }
