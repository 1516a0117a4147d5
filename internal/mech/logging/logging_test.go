package logging_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn"
	"cairn/internal/mech/logging"
)

// buffer is a standard output that several goroutines may write.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func open(t *testing.T, o logging.Options, outlets ...logging.Outlet) *logging.Log {
	t.Helper()
	l, err := logging.Open(outlets, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func stdout(format string) logging.Outlet {
	return logging.Outlet{Type: "stdout", Level: slog.LevelDebug, Format: format, Color: true}
}

// entries logs one of each kind of trouble.
func entries(to *slog.Logger) {
	to = to.With("job", "nightly")
	err := &cairn.Error{Op: "send", Subject: "db", Kind: cairn.KindSpace, Hint: "make room"}
	to.Warn("step failed", "dataset", "a db", "err", err, "kind", cairn.KindOf(err), "hint", err.Hint)
	to.Info("run began", "run", 7, "cause", "", "hint", "", "nothing", nil)
	to.Debug("two\nlines \x1b[31m", "q", `say "x"`, "token", "abc", slog.Group("tls", "DSN", "root:pw", "ok", true))
	to.WithGroup("g").With("a", time.Second).Error("boom", "when", time.Unix(0, 0).UTC(), "b", 1.5)
}

func TestFormats(t *testing.T) {
	for format, want := range map[string]string{
		"human": `WARN nightly: step failed dataset="a db" err="cannot send db: space (make room)" kind=space hint="make room"
INFO nightly: run began run=7 cause=""
DEBUG nightly: two\nlines \x1b[31m q="say \"x\"" token=(removed) tls.DSN=(removed) tls.ok=true
ERROR nightly: boom g.a=1s g.when=1970-01-01T00:00:00Z g.b=1.5
`,
		"logfmt": `level=warn msg="step failed" job=nightly dataset="a db" err="cannot send db: space (make room)" kind=space hint="make room"
level=info msg="run began" job=nightly run=7 cause=""
level=debug msg="two\nlines \x1b[31m" job=nightly q="say \"x\"" token=(removed) tls.DSN=(removed) tls.ok=true
level=error msg=boom job=nightly g.a=1s g.when=1970-01-01T00:00:00Z g.b=1.5
`,
		"json": `{"level":"warn","msg":"step failed","job":"nightly","dataset":"a db","err":"cannot send db: space (make room)","kind":"space","hint":"make room"}
{"level":"info","msg":"run began","job":"nightly","run":7,"cause":""}
{"level":"debug","msg":"two\nlines \u001b[31m","job":"nightly","q":"say \"x\"","token":"(removed)","tls.DSN":"(removed)","tls.ok":true}
{"level":"error","msg":"boom","job":"nightly","g.a":"1s","g.when":"1970-01-01T00:00:00Z","g.b":1.5}
`,
	} {
		t.Run(format, func(t *testing.T) {
			var out buffer
			entries(open(t, logging.Options{Stdout: &out}, stdout(format)).Logger())
			if out.String() != want {
				t.Errorf("got\n%swant\n%s", out.String(), want)
			}
		})
	}
}

func TestLoggersWithTheSameParent(t *testing.T) {
	var out buffer
	parent := open(t, logging.Options{Stdout: &out}, stdout("logfmt")).Logger().With("a", 1, "b", 2, "c", 3)
	x, y := parent.With("x", 1), parent.With("y", 2)
	x.Info("m", "k", "v")
	y.Info("m", "k", "v")
	x.Info("m")
	want := "level=info msg=m a=1 b=2 c=3 x=1 k=v\nlevel=info msg=m a=1 b=2 c=3 y=2 k=v\nlevel=info msg=m a=1 b=2 c=3 x=1\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestOneLoggerForManyGoroutines(t *testing.T) {
	var out buffer
	shared := open(t, logging.Options{Stdout: &out}, stdout("logfmt")).Logger().With("a", 1, "b", 2, "c", 3)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for range 300 {
				shared.Info("m", "x", g, "y", g)
			}
		})
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1200 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if n := line[len(line)-1:]; line != "level=info msg=m a=1 b=2 c=3 x="+n+" y="+n {
			t.Fatalf("two entries are mixed: %q", line)
		}
	}
}

func TestTimeAndColor(t *testing.T) {
	var out buffer
	o := stdout("human")
	o.Time = true
	open(t, logging.Options{Stdout: &out, Color: true}, o).Logger().Warn("x")
	if want := regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \x1b\[33mWARN\x1b\[0m x\n$`); !want.MatchString(out.String()) {
		t.Errorf("got %q", out.String())
	}
	for _, c := range []struct {
		terminal bool
		noColor  string
		want     bool
	}{{true, "", true}, {true, "1", false}, {false, "", false}} {
		got := logging.AllowColor(c.terminal, func(name string) string {
			return map[string]string{"NO_COLOR": c.noColor}[name]
		})
		if got != c.want {
			t.Errorf("%+v: colours %v", c, got)
		}
	}
	for _, format := range []string{"logfmt", "json"} {
		var plain buffer
		open(t, logging.Options{Stdout: &plain, Color: true}, stdout(format)).Logger().Warn("x")
		if strings.Contains(plain.String(), "\x1b") {
			t.Errorf("%s is coloured: %q", format, plain.String())
		}
	}
}

func TestNothingConfigured(t *testing.T) {
	var out buffer
	to := open(t, logging.Options{Stdout: &out}).Logger()
	to.Info("quiet")
	to.Warn("heard", "n", math.NaN())
	if got := out.String(); strings.Contains(got, "quiet") || !strings.HasSuffix(got, " WARN heard n=NaN\n") {
		t.Errorf("got %q", got)
	}
}

func TestLevelPerOutlet(t *testing.T) {
	var out buffer
	lines := collector(t)
	quiet := stdout("logfmt")
	quiet.Level = slog.LevelError
	l := open(t, logging.Options{Stdout: &out}, quiet, logging.Outlet{Type: "tcp", Level: slog.LevelInfo, Format: "json", Net: "tcp", Address: lines.addr})
	to := l.Logger()
	to.Debug("a")
	to.Info("b")
	to.Error("c")
	if got := out.String(); got != "level=error msg=c\n" {
		t.Errorf("stdout got %q", got)
	}
	for _, want := range []string{"b", "c"} {
		var e struct{ Msg string }
		if line := lines.next(t); json.Unmarshal([]byte(line), &e) != nil || e.Msg != want {
			t.Errorf("collector got %q, want %s", line, want)
		}
	}
}

// tcpCollector is a log collector.
type tcpCollector struct {
	addr  string
	lines chan string
	ln    net.Listener
	conns chan net.Conn
}

func collector(t *testing.T) *tcpCollector {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	c := &tcpCollector{addr: ln.Addr().String(), lines: make(chan string, 10000), conns: make(chan net.Conn, 10), ln: ln}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.conns <- conn
			go func() {
				for s := bufio.NewScanner(conn); s.Scan(); {
					c.lines <- s.Text()
				}
			}()
		}
	}()
	return c
}

func (c *tcpCollector) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-c.lines:
		return line
	case <-time.After(5 * time.Second):
		t.Fatal("the collector got nothing")
		return ""
	}
}

// A collector that is away is complained about at the first outlet, once, and gets
// what waited when it comes back.
func TestOutletThatIsAway(t *testing.T) {
	c := collector(t)
	if err := c.ln.Close(); err != nil {
		t.Fatal(err)
	}
	var out buffer
	l := open(t, logging.Options{Stdout: &out}, stdout("logfmt"),
		logging.Outlet{Type: "tcp", Format: "logfmt", Net: "tcp", Address: c.addr, RetryInterval: 10 * time.Millisecond})
	for n := range 1500 {
		l.Logger().Info("entry", "n", n)
	}
	eventually(t, func() bool { return strings.Contains(out.String(), "cannot be reached") })
	time.Sleep(50 * time.Millisecond) // some more attempts
	ln, err := net.Listen("tcp", c.addr)
	if err != nil {
		t.Skip("the address was taken meanwhile: ", err)
	}
	defer func() { _ = ln.Close() }()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasSuffix(line, " level=info msg=entry n=0\n") {
		t.Errorf("first line %q, %v", line, err)
	}
	eventually(t, func() bool { return strings.Contains(out.String(), "entries were dropped") })
	if n := strings.Count(out.String(), "cannot be reached"); n != 1 {
		t.Errorf("complained %d times", n)
	}
}

func TestOutletThatIsCutOff(t *testing.T) {
	c := collector(t)
	var out buffer
	l := open(t, logging.Options{Stdout: &out}, stdout("logfmt"),
		logging.Outlet{Type: "tcp", Format: "logfmt", Net: "tcp", Address: c.addr, RetryInterval: time.Millisecond})
	l.Logger().Info("before")
	c.next(t)
	if err := (<-c.conns).Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		l.Logger().Info("after")
		return strings.Contains(out.String(), "was cut off")
	})
	if line := c.next(t); !strings.Contains(line, "msg=after") {
		t.Errorf("got %q", line)
	}
}

func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for range 1000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("waited in vain")
}

// A collector that takes connections and reads nothing delays neither logging nor
// the end.
func TestNeverWaitsForTheNetwork(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	l := open(t, logging.Options{Stdout: io.Discard}, stdout("json"), logging.Outlet{Type: "tcp", Format: "json", Net: "tcp", Address: ln.Addr().String()})
	began := time.Now()
	long := strings.Repeat("x", 20000)
	for range 1200 {
		l.Logger().Info(long)
	}
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("logging took %v", took)
	}
	began = time.Now()
	if err := l.Close(); err != nil || time.Since(began) > 6*time.Second {
		t.Errorf("closing took %v: %v", time.Since(began), err)
	}
}

func TestSyslog(t *testing.T) {
	for _, network := range []string{"unixgram", "unix"} {
		t.Run(network, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "log")
			var read func() string
			if network == "unixgram" {
				conn, err := net.ListenUnixgram(network, &net.UnixAddr{Name: socket, Net: network})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				read = func() string {
					p := make([]byte, 1000)
					n, _ := conn.Read(p)
					return string(p[:n])
				}
			} else {
				ln, err := net.Listen(network, socket)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = ln.Close() }()
				read = func() string {
					conn, err := ln.Accept()
					if err != nil {
						return err.Error()
					}
					line, _ := bufio.NewReader(conn).ReadString('\n')
					return line
				}
			}
			l := open(t, logging.Options{Stdout: io.Discard, Syslog: socket}, logging.Outlet{Type: "syslog", Format: "human", Facility: "local0"})
			l.Logger().Error("boom", "job", "nightly")
			want := regexp.MustCompile(fmt.Sprintf(`^<131>\w{3} [ \d]\d \d\d:\d\d:\d\d cairn\[%d\]: ERROR nightly: boom\n$`, os.Getpid()))
			if line := read(); !want.MatchString(line) {
				t.Errorf("got %q", line)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, o := range []logging.Outlet{
		{Type: "file", Format: "human"},
		{Type: "stdout", Format: "xml"},
		{Type: "syslog", Format: "human", Facility: "nine"},
		{Type: "syslog", Format: "human"},
		{Type: "tcp", Format: "human", CA: "/nonexistent", Cert: "/nonexistent"},
	} {
		if _, err := logging.Open([]logging.Outlet{o}, logging.Options{}); !errors.Is(err, cairn.KindConfig) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// What is queued when the log is closed still arrives.
func TestCloseWritesWhatWaits(t *testing.T) {
	c := collector(t)
	l := open(t, logging.Options{Stdout: io.Discard}, logging.Outlet{Type: "tcp", Format: "logfmt", Net: "tcp", Address: c.addr})
	for range 100 {
		l.Logger().Info("x")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.next(t)
	}
	l.Logger().Info("too late, and harmless")
}
