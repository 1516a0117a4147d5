package config_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/app/config"
)

var update = flag.Bool("update", false, "rewrite the expected texts in testdata")

// marker begins the expected text inside a sample file, after the sample itself.
const marker = "#= "

// samples calls fn for each file of a testdata folder with the text it expects, and
// compares what fn returns with that.
func samples(t *testing.T, folder string, fn func(t *testing.T, name string, src []byte) string) {
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no samples", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yml"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sample, want := split(src)
			got := fn(t, filepath.Base(file), sample)
			if *update {
				join(t, file, sample, got)
			} else if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func split(src []byte) (sample []byte, want string) {
	var text strings.Builder
	for line := range bytes.Lines(src) {
		if rest, ok := bytes.CutPrefix(line, []byte(marker)); ok {
			text.Write(rest)
			continue
		}
		sample = append(sample, line...)
	}
	return sample, strings.TrimSuffix(text.String(), "\n")
}

func join(t *testing.T, file string, sample []byte, text string) {
	t.Helper()
	for line := range strings.Lines(text + "\n") {
		sample = append(sample, marker+line...)
	}
	if err := os.WriteFile(file, sample, 0o644); err != nil {
		t.Fatal(err)
	}
}

var options = config.Options{SkipFiles: true, Paths: config.Paths{State: "/var/lib/cairn", Runtime: "/run/cairn"}}

func parse(name string, src []byte) (*config.Config, error) {
	return config.Parse("/etc/cairn/"+name, src, options)
}

func errorText(t *testing.T, err error, kind cairn.Kind) string {
	t.Helper()
	if err == nil {
		t.Error("accepted")
		return ""
	}
	var problems config.Problems
	if cairn.KindOf(err) != kind || !errors.As(err, &problems) {
		t.Errorf("kind %v of %T, want %v with Problems", cairn.KindOf(err), err, kind)
	}
	for _, p := range problems {
		if p.At.File == "" || p.At.Line == 0 && p.Text != "the file is empty" {
			t.Errorf("%v has no position", p)
		}
	}
	return strings.ReplaceAll(err.Error(), "/etc/cairn/", "")
}

func TestInvalid(t *testing.T) {
	samples(t, "invalid", func(t *testing.T, name string, src []byte) string {
		_, err := parse(name, src)
		return errorText(t, err, cairn.KindConfig)
	})
}

func TestNotInThisVersion(t *testing.T) {
	samples(t, "later", func(t *testing.T, name string, src []byte) string {
		_, err := parse(name, src)
		return errorText(t, err, cairn.KindUnsupported)
	})
}

// The expected text of a valid sample is the resolved view, which must itself be a
// configuration that resolves to the same.
func TestValid(t *testing.T) {
	samples(t, "valid", func(t *testing.T, name string, src []byte) string {
		c, err := parse(name, src)
		if err != nil {
			t.Fatal(err)
		}
		shown := c.ShowYAML()
		again, err := parse(name, shown)
		if err != nil {
			t.Fatalf("the resolved view does not parse: %v\n%s", err, shown)
		}
		if !bytes.Equal(again.ShowYAML(), shown) {
			t.Errorf("the resolved view resolves to something else:\n%s", again.ShowYAML())
		}
		return strings.TrimSuffix(string(shown), "\n")
	})
}
