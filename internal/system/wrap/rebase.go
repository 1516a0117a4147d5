package wrap

import "cairn"

// Rebase shows the datasets below prefix under their names without it: a pull job
// works on the same names at both sides, and what it receives lands below the
// prefix. An empty prefix is the endpoint itself.
func Rebase(ep *cairn.Endpoint, prefix string) (*cairn.Endpoint, error) {
	if prefix == "" {
		return ep, nil
	}
	if err := cairn.CheckDatasetName(prefix); err != nil {
		return nil, err
	}
	return newBelow(ep, prefix), nil
}
