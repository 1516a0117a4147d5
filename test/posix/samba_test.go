//go:build linux

package posix_test

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/internal/testkit/tapemount"
)

//go:embed samba.py
var sambaClient string

// A client of Samba, with strict sync, flushes a file: when that returns, data and
// index are on tape. Without the flush they are not, which tells this from luck.
func TestSambaFlush(t *testing.T) {
	tapemount.Need(t)
	python := pythonWith(t, "impacket.smb3")
	for _, flush := range []bool{true, false} {
		t.Run(fmt.Sprintf("flush %v", flush), func(t *testing.T) {
			m := tapemount.Mount(t, tapemount.NewTape(t), tapemount.Options{})
			port := startSamba(t, m.Dir)
			script := filepath.Join(t.TempDir(), "samba.py")
			if err := os.WriteFile(script, []byte(sambaClient), 0o644); err != nil {
				t.Fatal(err)
			}
			word := "flush"
			if !flush {
				word = "none"
			}
			keepOpen(t, exec.Command(python, script, port, "file", word))
			m.Kill()
			again := tapemount.Mount(t, m.Tape, tapemount.Options{})
			got, err := os.ReadFile(again.Path("file"))
			switch {
			case flush && string(got) != strings.Repeat("promised", 4000):
				t.Errorf("the flush returned, and %d bytes are on tape (%v)", len(got), err)
			case !flush && !errors.Is(err, fs.ErrNotExist):
				t.Errorf("without a flush %d bytes are on tape (%v)", len(got), err)
			}
			again.Unmount()
		})
	}
}

func pythonWith(t *testing.T, module string) string {
	t.Helper()
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(python, "-c", "import "+module).Run() == nil {
			return python
		}
	}
	t.Skipf("this place does not offer Python with %s", module)
	return ""
}

// startSamba serves a folder as the share "tape" and returns the port.
func startSamba(t *testing.T, dir string) string {
	t.Helper()
	server, err := exec.LookPath("smbd")
	if err != nil {
		if server, err = exec.LookPath("/usr/sbin/smbd"); err != nil {
			t.Skip("this place does not offer smbd")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	work := t.TempDir()
	config := fmt.Sprintf(`[global]
 server role = standalone server
 map to guest = Bad User
 guest account = root
 interfaces = lo
 bind interfaces only = yes
 smb ports = %[1]s
 lock directory = %[2]s
 private dir = %[2]s
 state directory = %[2]s
 cache directory = %[2]s
 pid directory = %[2]s
 ncalrpc dir = %[2]s/ncalrpc
 log file = %[2]s/log
 disable spoolss = yes
 load printers = no
[tape]
 path = %[3]s
 read only = no
 guest ok = yes
 strict sync = yes
 force user = root
`, port, work, dir)
	file := filepath.Join(work, "smb.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	smbd := exec.Command(server, "-F", "--no-process-group", "-s", file, "-l", work)
	smbd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := smbd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-smbd.Process.Pid, syscall.SIGKILL)
		_ = smbd.Wait()
	})
	for range 200 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			_ = c.Close()
			return port
		}
		time.Sleep(50 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(work, "log"))
	t.Fatalf("smbd does not answer: %s", log)
	return ""
}

// keepOpen starts a client and returns when it has written.
func keepOpen(t *testing.T, client *exec.Cmd) {
	t.Helper()
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var problems strings.Builder
	client.Stderr = &problems
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = client.Process.Kill()
		_ = client.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "written\n" {
		t.Fatalf("the client: %q, %v, %s", line, err, problems.String())
	}
}
