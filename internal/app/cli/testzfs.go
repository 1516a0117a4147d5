package cli

import (
	"context"

	"github.com/spf13/cobra"

	"cairn"
	"cairn/internal/format/zfsstream"
	"cairn/internal/system/zfs"
)

// testPlaceholderCommand tells of filesystems whether a receive made them only to
// hold others.
func (p *program) testPlaceholderCommand() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:     "placeholder [NAME...]",
		Short:   "Show which ZFS filesystems only hold others",
		Example: "  cairn test placeholder backup/sink/db1\n  cairn test placeholder --all",
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return badUsage(cmd, "name filesystems, or ask for --all")
			}
			place, err := p.zfs(ctx)
			if err != nil {
				return err
			}
			q := cairn.Query{Filter: cairn.All}
			if !all {
				q.Names = args
			}
			found := map[string]bool{}
			var names []string
			for l, err := range place.Endpoint(zfs.Job{}).Lister.List(ctx, q) {
				if err != nil {
					return err
				}
				if l.Dataset.Kind == cairn.KindFilesystem {
					names, found[l.Dataset.Name] = append(names, l.Dataset.Name), l.Dataset.Placeholder
				}
			}
			for _, name := range args {
				if _, there := found[name]; !there {
					return &cairn.Error{Op: "find filesystem", Subject: name, Kind: cairn.KindNotFound, Hint: "'cairn test placeholder --all' lists them"}
				}
			}
			return p.printAnswers(names, found, asJSON)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every filesystem of this machine")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// testTokenCommand tells what a resume token stands for.
func (p *program) testTokenCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "token TOKEN",
		Aliases: []string{"decoderesumetoken"},
		Short:   "Show what a ZFS resume token stands for",
		Long:    "It is the value of the property receive_resume_token of a filesystem or zvol whose receive was cut.",
		Example: "  cairn test token 1-10a5…",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(_ context.Context, _ *cobra.Command, args []string) error {
			t, err := zfsstream.ParseToken(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(map[string]any{"to": t.ToName, "to_guid": t.ToGUID.String(), "from_guid": t.FromGUID.String(), "object": t.Object, "offset": t.Offset,
					"received": t.Bytes, "large_blocks": t.LargeBlocks, "embedded": t.Embedded, "compressed": t.Compressed, "raw": t.Raw, "saved": t.Saved})
			}
			from := "nothing: a full stream"
			if t.FromGUID != 0 {
				from = "GUID " + t.FromGUID.String()
			}
			return p.printf("to        %s, GUID %s\nfrom      %s\nreceived  %s\ngoes on   at object %d, byte %d\nflags     %s\n",
				t.ToName, t.ToGUID, from, size(int64(t.Bytes)), t.Object, t.Offset, sendFlags(t))
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// sendFlags are those of zfs send that the token's stream had.
func sendFlags(t zfsstream.Token) string {
	flags := ""
	for _, f := range []struct {
		set    bool
		letter string
	}{{t.LargeBlocks, " -L"}, {t.Embedded, " -e"}, {t.Compressed, " -c"}, {t.Raw, " -w"}, {t.Saved, " -S"}} {
		if f.set {
			flags += f.letter
		}
	}
	if flags == "" {
		return "none"
	}
	return flags[1:]
}
