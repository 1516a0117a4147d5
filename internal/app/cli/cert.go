package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"cairn/internal/system/transport/certs"
)

func (p *program) certCommand() *cobra.Command {
	var dir string
	var hosts []string
	in := func(cmd *cobra.Command) *cobra.Command {
		cmd.Flags().StringVar(&dir, "dir", ".", "`FOLDER` of the authority")
		return cmd
	}
	issue := in(&cobra.Command{
		Use:   "issue NAME",
		Short: "Make a key and a certificate for a machine",
		Long: "NAME becomes the certificate's common name: what others call server_cn, and at a sink the name\n" +
			"below which this machine's datasets land. Copy NAME.pem, NAME.key and ca.pem to the machine.",
		Example: "  cairn cert issue db1 --dir /etc/cairn/ca\n  cairn cert issue vault --host vault.example --dir /etc/cairn/ca",
		Args:    cobra.ExactArgs(1),
		RunE: run(func(_ context.Context, _ *cobra.Command, args []string) error {
			made, err := certs.Issue(dir, args[0], hosts)
			return p.madeFiles(made, err)
		}),
	})
	issue.Flags().StringArrayVar(&hosts, "host", nil, "`NAME` or IP address by which others connect to the machine; may be repeated")
	return family(groupSetUp, "cert", "Keep a small certificate authority for the tls transport", "  cairn cert init --dir /etc/cairn/ca",
		in(&cobra.Command{
			Use:     "init",
			Short:   "Make a certificate authority in a folder",
			Example: "  cairn cert init --dir /etc/cairn/ca",
			Args:    cobra.NoArgs,
			RunE: run(func(context.Context, *cobra.Command, []string) error {
				made, err := certs.Init(dir)
				return p.madeFiles(made, err)
			}),
		}),
		issue,
		in(&cobra.Command{
			Use:     "renew NAME",
			Short:   "Give a machine's certificate a new lifetime, for the same key",
			Example: "  cairn cert renew db1 --dir /etc/cairn/ca",
			Args:    cobra.ExactArgs(1),
			RunE: run(func(_ context.Context, _ *cobra.Command, args []string) error {
				made, err := certs.Renew(dir, args[0])
				return p.madeFiles(made, err)
			}),
		}))
}

func (p *program) madeFiles(made certs.Paths, err error) error {
	if err != nil {
		return err
	}
	for _, f := range slices.Compact(nonEmpty(made.CA, made.Cert, made.Key)) {
		if err := p.printf("%s\n", f); err != nil {
			return err
		}
	}
	return nil
}
