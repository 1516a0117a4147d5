package logging

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

const (
	queueLength = 1000            // entries that wait for an outlet
	drainTime   = 2 * time.Second // what Close gives them
	ioTime      = 10 * time.Second
)

// dialer opens an outlet's connection.
type dialer func(ctx context.Context) (net.Conn, error)

// remote writes entries to a connection that may fail and come back. One goroutine,
// started by newRemote and awaited by close, owns the connection.
type remote struct {
	dial     dialer
	retry    time.Duration
	complain func(text string, err error)

	queue  chan []byte
	ctx    context.Context // done when close has waited long enough
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex // guards what follows
	dropped int
	closed  bool
}

func newRemote(dial dialer, retry time.Duration, complain func(string, error)) *remote {
	if retry <= 0 {
		retry = 10 * time.Second
	}
	r := &remote{dial: dial, retry: retry, complain: complain, queue: make(chan []byte, queueLength), ended: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	go r.run()
	return r
}

// send queues a line, or drops it when the queue is full.
func (r *remote) send(line []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	select {
	case r.queue <- line:
	default:
		r.dropped++
	}
}

// close lets what is queued be written until ctx ends. It may be called again.
func (r *remote) close(ctx context.Context) {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.queue)
	}
	r.mu.Unlock()
	select {
	case <-r.ended:
	case <-ctx.Done():
	}
	r.cancel()
	<-r.ended
}

func (r *remote) run() {
	defer close(r.ended)
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close() // every line was written or given up
		}
	}()
	for line := range r.queue {
		for {
			if conn == nil {
				if conn = r.connect(); conn == nil {
					return
				}
			}
			err := r.write(conn, line)
			if err == nil {
				break
			}
			_ = conn.Close() // it failed already
			conn = nil
			r.complain("log outlet was cut off", err)
		}
		r.tellDropped()
	}
}

// write gives up after ioTime, and at once when close has waited long enough.
func (r *remote) write(conn net.Conn, line []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(ioTime)); err != nil {
		return err
	}
	stop := context.AfterFunc(r.ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := conn.Write(line)
	return err
}

// connect tries until it succeeds; nil when the outlet is closed meanwhile. It
// complains once.
func (r *remote) connect() net.Conn {
	for attempt := 0; ; attempt++ {
		ctx, cancel := context.WithTimeout(r.ctx, ioTime)
		conn, err := r.dial(ctx)
		cancel()
		if err == nil {
			return conn
		}
		if attempt == 0 && r.ctx.Err() == nil {
			r.complain("log outlet cannot be reached; trying again", err)
		}
		select {
		case <-r.ctx.Done():
			return nil
		case <-time.After(r.retry):
		}
	}
}

// tellDropped reports what was dropped while the outlet was slow or away.
func (r *remote) tellDropped() {
	r.mu.Lock()
	n := r.dropped
	r.dropped = 0
	r.mu.Unlock()
	if n > 0 {
		r.complain(fmt.Sprintf("log outlet was too slow: %d entries were dropped", n), nil)
	}
}

// dialTCP makes the dialer of a tcp outlet, with mutual TLS when files are given.
func dialTCP(spec Outlet) (dialer, error) {
	if spec.CA == "" && spec.Cert == "" {
		return func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, spec.Net, spec.Address)
		}, nil
	}
	cert, err := tls.LoadX509KeyPair(spec.Cert, spec.Key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(spec.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", spec.CA)
	}
	d := &tls.Dialer{Config: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, spec.Net, spec.Address) }, nil
}

// facilities in the order of their numbers (RFC 3164 §4.1.1); those without a name
// are not used.
var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// dialSyslog connects to the system's log, which listens for datagrams or, on some
// systems, for a stream.
func dialSyslog(socket string) dialer {
	if socket == "" {
		socket = "/dev/log"
	}
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", socket)
		if err != nil {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		return conn, nil
	}
}

// syslogLine renders "<PRIORITY>TIME TAG[PID]: LINE" as RFC 3164 has it.
func syslogLine(facility int, level slog.Level, now time.Time, line []byte) []byte {
	severity := map[string]int{"debug": 7, "info": 6, "warn": 4, "error": 3}[levelWord(level)]
	return append(fmt.Appendf(nil, "<%d>%s cairn[%d]: ", facility*8+severity, now.Format(time.Stamp), os.Getpid()), line...)
}
