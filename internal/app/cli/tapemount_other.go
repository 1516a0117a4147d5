//go:build !linux

package cli

import (
	"context"

	"github.com/spf13/cobra"
)

// tapeMountCommands are those that need FUSE as Linux has it: here there are none.
func (p *program) tapeMountCommands() []*cobra.Command { return nil }

// tapeMounts are the mounted tapes: here there are none.
func tapeMounts(context.Context) []tapeMount { return nil }

// mountedInfo has no mounted tape to ask.
func (p *program) mountedInfo(string, bool) (bool, error) { return false, nil }
