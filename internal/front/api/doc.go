// Package api is the daemon's control API: HTTP with JSON on a unix socket that
// only the daemon's own user can reach. It turns requests into calls of the
// interfaces it declares and results into the types of package client, which
// documents the protocol; it decides nothing.
//
// It promises that the socket is never reachable by others (mode 0600 in a folder
// of mode 0700; a folder that others may enter is refused), that a request body is
// bounded, that answers hold neither secrets nor the environment, and that ending
// the context of Serve ends every request. What can go wrong: the path is too long
// for a unix socket, another daemon listens there (KindBusy), or the folder is
// open to others (KindPermission).
package api
