package cli_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/internal/app/cli"
)

// recordedStream is one that OpenZFS made.
func recordedStream(t *testing.T, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile("../../format/zfsstream/testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func streamInfo(t *testing.T, stream []byte, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Main(append([]string{"zfs", "stream", "info"}, args...), bytes.NewReader(stream), &o, &e)
	return code, o.String(), e.String()
}

func TestZFSStreamInfo(t *testing.T) {
	for name, want := range map[string][]string{
		"plain":      {"snapshot  p1/t/v@a (zvol), GUID c701cdaf0f591070\n", "base      none: a full stream\n", "features  none\n", "records   1 begin, 2 object, 1 freeobjects, 5 write, 5 free, 1 end\n", "verified  whole"},
		"ce-i":       {"base      GUID c701cdaf0f591070\n", "features  embedded_data, lz4, compressed\n"},
		"R":          {"p1/t/v@a", "p1/t/v@b", "p1/t/v@c", "compound  3 snapshots"},
		"resumed-ce": {"resumed   at object 1, byte 12288\n"},
		"clone":      {"of another dataset: it is a clone"},
		"fs-Lce":     {"(filesystem)", "large_dnode"},
	} {
		code, out, errOut := streamInfo(t, recordedStream(t, name), "-")
		if code != 0 || errOut != "" {
			t.Errorf("%s: exit status %d, %s", name, code, errOut)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: no %q in\n%s", name, w, out)
			}
		}
	}
}

func TestZFSStreamInfoJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(file, recordedStream(t, "fs-Rh"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := streamInfo(t, nil, "--json", file)
	var got struct {
		Compound, Verified bool
		Bytes              int64
		Snapshots          []struct{ Name, From_GUID string }
		Records            map[string]int64
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatal(code, err, errOut)
	}
	if !got.Compound || !got.Verified || got.Bytes != 204564 || len(got.Snapshots) != 2 || got.Snapshots[1].Name != "p1/t/fs@b" || got.Records["spill"] != 2 {
		t.Errorf("%+v", got)
	}
}

// A damaged or cut stream is reported with its own exit status, and so is a file that
// is not there.
func TestZFSStreamInfoOfDamage(t *testing.T) {
	b := recordedStream(t, "plain")
	b[5000] ^= 1
	for _, stream := range [][]byte{b, b[:4000], []byte("no stream at all, but long enough to be more than one record; " + strings.Repeat("x", 400))} {
		if code, out, errOut := streamInfo(t, stream, "-"); code != 20 || out != "" || !strings.HasPrefix(errOut, "cairn: cannot read zfs stream: ") {
			t.Errorf("exit status %d, %q, %q", code, out, errOut)
		}
	}
	if code, _, errOut := streamInfo(t, nil, filepath.Join(t.TempDir(), "none")); code != 12 {
		t.Errorf("no file: exit status %d, %s", code, errOut)
	}
}
