package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/internal/app/daemon"
)

func (p *program) serveCommand() *cobra.Command {
	var s client.Serve
	var listen string
	cmd := &cobra.Command{
		Use:   "serve VOLUME...",
		Short: "Export volumes and snapshots over NBD until interrupted",
		Long: "Each volume is exported under its name, writable, and each of its snapshots as VOLUME@SNAP, read\n" +
			"only. A volume that the daemon hosts is exported by the daemon for as long as the command runs;\n" +
			"without a daemon other commands reach the volumes through this one. On tcp beyond this machine, --ca, --cert and --key ask for mutual TLS.",
		Example: "  cairn serve db --listen unix:/run/cairn/db.sock\n  cairn serve db@monday --listen tcp:127.0.0.1:10809",
		GroupID: groupVolumes,
		Args:    cobra.MinimumNArgs(1),
		RunE: run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			network, address, ok := strings.Cut(listen, ":")
			if !ok || address == "" || network != "unix" && network != "tcp" {
				return badUsage(cmd, "--listen %q is none of unix:PATH and tcp:HOST:PORT", listen)
			}
			if network == "unix" {
				address = absolute(address)
			}
			s.Volumes, s.Network, s.Address = args, network, address
			s.CA, s.Cert, s.Key = absolute(s.CA), absolute(s.Cert), absolute(s.Key)
			return p.serve(ctx, s)
		}),
		ValidArgsFunction: p.completeDatasets,
	}
	cmd.Flags().StringVar(&listen, "listen", "unix:/run/cairn/nbd.sock", "`ADDRESS`: unix:PATH or tcp:HOST:PORT")
	cmd.Flags().BoolVar(&s.ReadOnly, "read-only", false, "export everything read only")
	cmd.Flags().StringVar(&s.CA, "ca", "", "`FILE` with the certificate authority of the clients")
	cmd.Flags().StringVar(&s.Cert, "cert", "", "`FILE` with our certificate")
	cmd.Flags().StringVar(&s.Key, "key", "", "`FILE` with its key")
	return cmd
}

func (p *program) serve(ctx context.Context, s client.Serve) error {
	var printing error
	ready := func(at client.Serving) {
		for _, e := range at.Exports {
			if err := p.printf("%s\n", exportURI(at, e)); err != nil {
				printing = err
			}
		}
	}
	c, err := p.running(ctx)
	if err != nil {
		return err
	}
	if c != nil {
		err = c.Serve(ctx, s, ready)
	} else {
		err = daemon.Hosting(ctx, p.loaded, func(ctx context.Context, h *daemon.Here) error {
			return daemon.ServeVolumes(ctx, h, s, ready)
		})
	}
	if err == nil {
		err = printing
	}
	return err
}

// exportURI is how NBD clients name an export.
func exportURI(at client.Serving, export string) string {
	if at.Network == "unix" {
		return "nbd+unix:///" + export + "?socket=" + at.Address
	}
	return "nbd://" + at.Address + "/" + export
}
