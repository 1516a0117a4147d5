//go:build !linux

package daemon

import (
	"context"

	"cairn/client"
)

// tapeMounts are the mounted tapes of this machine: here there are none.
type tapeMounts struct{}

// List lists none.
func (tapeMounts) List(context.Context) ([]client.Tape, error) { return nil, nil }
