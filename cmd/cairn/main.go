// Command cairn captures, replicates, prunes and restores versions of block
// volumes; see docs/guide/commands.md.
package main

import (
	"os"

	"cairn/internal/app/cli"
)

func main() {
	os.Exit(cli.Main(cli.Arguments(os.Args), os.Stdin, os.Stdout, os.Stderr))
}
