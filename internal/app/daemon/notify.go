package daemon

import (
	"context"
	"net"
	"os"

	"cairn"
)

// notify tells systemd (sd_notify protocol) how far the daemon has come; outside
// of systemd it does nothing.
func notify(ctx context.Context, state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", socket)
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close() // a datagram is sent or not
	}
	if err != nil {
		return &cairn.Error{Op: "notify service manager", Subject: socket, Kind: cairn.KindIO, Err: err}
	}
	return nil
}
