package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairn"
	"cairn/internal/system/transport"
)

// TestMain lets the test program be the forced command: with STDIN_DIR set it
// serves the identity that is its argument.
func TestMain(m *testing.M) {
	dir := os.Getenv("STDIN_DIR")
	if dir == "" {
		m.Run()
		return
	}
	if err := transport.ServeStdin(context.Background(), dir, os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cairn:", err)
		os.Exit(1) //nolint:forbidigo // the forced command's process ends here
	}
}

// stdinDialer dials through the forced command itself, without ssh between.
func stdinDialer(dir, identity string) transport.Dialer {
	return transport.SSHDialer(transport.SSHOptions{Host: "vault", Timeout: 20 * time.Second,
		Command: []string{"/usr/bin/env", "STDIN_DIR=" + dir, os.Args[0], identity}})
}

func listenStdin(t *testing.T, identities ...string) string {
	t.Helper()
	dir := filepath.Join(shortDir(t), "in")
	ln, err := transport.ListenStdin(t.Context(), transport.StdinOptions{Dir: dir, Identities: identities})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln)
	return dir
}

func TestForcedCommandDecidesIdentity(t *testing.T) {
	dir := listenStdin(t, "laptop", "desk")
	for _, identity := range []string{"laptop", "desk"} {
		if got := identityOver(t, stdinDialer(dir, identity)); got != identity {
			t.Errorf("%s is known as %q", identity, got)
		}
	}
	_, err := stdinDialer(dir, "stranger").Dial(t.Context())
	if !errors.Is(err, cairn.KindUnavailable) || !strings.Contains(err.Error(), "client_identities: [stranger]") {
		t.Errorf("an identity that nobody serves: %v", err)
	}
	_, err = stdinDialer(dir, "../laptop").Dial(t.Context())
	if err == nil || !strings.Contains(err.Error(), "one component of a dataset name") {
		t.Errorf("an identity that leaves the folder: %v", err)
	}
}

func TestLoginThatFails(t *testing.T) {
	for script, want := range map[string]string{
		"echo 'Permission denied (publickey).' >&2; exit 255": "Permission denied (publickey).",
		"echo Welcome to vault":                               "does not speak Cairn's protocol",
		"exec sleep 60":                                       "no answer in time",
	} {
		d := transport.SSHDialer(transport.SSHOptions{Host: "vault", Command: []string{"/bin/sh", "-c", script}, Timeout: time.Second})
		_, err := d.Dial(t.Context())
		if !errors.Is(err, cairn.KindUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", script, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	d := transport.SSHDialer(transport.SSHOptions{Host: "vault", Command: []string{"/bin/sh", "-c", "exec sleep 60"}})
	if _, err := d.Dial(ended); !errors.Is(err, cairn.KindCanceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// A connection keeps every byte up to its close, both ways, and its deadlines work.
func TestBytesThroughTheForcedCommand(t *testing.T) {
	dir := filepath.Join(shortDir(t), "in")
	ln, err := transport.ListenStdin(t.Context(), transport.StdinOptions{Dir: dir, Identities: []string{"laptop"}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := stdinDialer(dir, "laptop").Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read past its deadline: %v", err)
	}
	const size = 3 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		sent <- errors.Join(err, c.Close())
	}()
	n, err := io.Copy(io.Discard, far)
	if n != size || err != nil {
		t.Errorf("%d of %d bytes arrived: %v", n, size, err)
	}
	far.Close()
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// The whole way through a real ssh server on the loopback.
func TestRealSSH(t *testing.T) {
	server, err := exec.LookPath("/usr/sbin/sshd")
	keygen, noKeygen := exec.LookPath("ssh-keygen")
	if err != nil || noKeygen != nil || os.Geteuid() != 0 {
		t.Skip("this place does not offer an ssh server to root")
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("this place does not offer ssh")
	}
	dir, in := t.TempDir(), listenStdin(t, "laptop")
	for _, key := range []string{"host", "client", "plain"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	port := freePort(t)
	authorized := write("authorized", fmt.Sprintf("command=\"STDIN_DIR=%s exec %s laptop\",restrict %s\n%s\n", in, os.Args[0], read("client.pub"), read("plain.pub")))
	known := write("known", fmt.Sprintf("[127.0.0.1]:%d %s\n", port, read("host.pub")))
	config := write("sshd_config", fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n",
		port, filepath.Join(dir, "host"), authorized))
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Skip("this place does not offer /run/sshd, which sshd needs")
	}
	daemon := exec.Command(server, "-D", "-e", "-f", config)
	log := write("log", "")
	if daemon.Stderr, err = os.OpenFile(log, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		if t.Failed() {
			t.Log(read("log"))
		}
	})
	waitFor(t, "127.0.0.1:"+strconv.Itoa(port))
	dialer := func(key, host string, options ...string) transport.Dialer {
		return transport.SSHDialer(transport.SSHOptions{Host: host, User: "root", Port: port, IdentityFile: filepath.Join(dir, key),
			Options: append(options, "UserKnownHostsFile="+known, "IdentitiesOnly=yes"), Timeout: 30 * time.Second})
	}
	if got := identityOver(t, dialer("client", "127.0.0.1")); got != "laptop" {
		t.Errorf("identity %q", got)
	}
	for _, c := range []struct {
		dialer transport.Dialer
		want   string
	}{
		{dialer("plain", "127.0.0.1"), "no command is forced on this key"},
		{dialer("host", "127.0.0.1"), "Permission denied"},
		{dialer("client", "127.0.0.1", "UserKnownHostsFile=/dev/null"), "Host key verification failed"},
		{dialer("client", "-oProxyCommand=touch "+filepath.Join(dir, "broken-in")), "ostname"},
	} {
		if _, err := c.dialer.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "broken-in")); err == nil {
		t.Error("a host name became an option of ssh")
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func waitFor(t *testing.T, address string) {
	t.Helper()
	for range 300 {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the ssh server does not listen")
}
