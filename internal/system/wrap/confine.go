package wrap

import (
	"fmt"
	"strings"

	"cairn"
)

// Confine is a place as one client sees it: its dataset NAME is the place's
// ROOT/IDENTITY/NAME (IDENTITY/NAME with an empty root), in every ability, in
// listings and in errors. What is not below ROOT/IDENTITY can be neither seen nor
// reached. The identity is one component of a name; KindInvalid when it is not.
func Confine(ep *cairn.Endpoint, root, identity string) (*cairn.Endpoint, error) {
	if strings.Contains(identity, "/") {
		return nil, &cairn.Error{Op: "confine client", Subject: fmt.Sprintf("%q", identity), Kind: cairn.KindInvalid,
			Hint: "an identity is one component of a dataset name: it has no slash"}
	}
	if err := cairn.CheckDatasetName(identity); err != nil {
		return nil, err
	}
	prefix := identity
	if root != "" {
		prefix = root + "/" + identity
	}
	if err := cairn.CheckDatasetName(prefix); err != nil {
		return nil, err
	}
	out := newBelow(ep, prefix)
	out.Info.Identity = identity
	return out, nil
}
