package config_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"cairn"
	"cairn/internal/app/config"
	"cairn/internal/mech/logging"
	"cairn/internal/system/transport/certs"
)

// tree writes files below a fresh folder and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func snap(name string) string {
	return `{name: ` + name + `, type: snap, volumes: {"<": true}, snapshotting: {type: manual}, pruning: {keep: []}}`
}

// zrepl looks for a relative include in the working folder, or refuses an absolute
// one, depending on how the main file was named; here it is always the including
// file's folder that counts.
func TestIncludeIsRelativeToTheIncludingFile(t *testing.T) {
	dir := tree(t, map[string]string{
		"etc/cairn.yml":         "include: [more.yml, jobs.d, ABS]\njobs:\n- " + snap("main"),
		"etc/more.yml":          "jobs: [" + snap("more") + "]\nvolumes: {db: {adopt: disks/db}}",
		"etc/jobs.d/b.yml":      "jobs: [" + snap("b") + "]",
		"etc/jobs.d/a.yml":      "jobs: [" + snap("a") + "]",
		"etc/jobs.d/README.txt": "not YAML: [",
		"etc/jobs.d/.old.yml":   "not YAML: [",
		"elsewhere/abs.yml":     "jobs: [" + snap("abs") + "]",
	})
	main := filepath.Join(dir, "etc/cairn.yml")
	text, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(main, []byte(strings.Replace(string(text), "ABS", filepath.Join(dir, "elsewhere/abs.yml"), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(dir, "elsewhere"))
	for _, name := range []string{main, "../etc/cairn.yml"} {
		c, err := config.Load(name, options)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, j := range c.Jobs {
			names = append(names, j.Name)
		}
		if !slices.Equal(names, []string{"main", "more", "a", "b", "abs"}) {
			t.Errorf("%s: jobs %v", name, names)
		}
		if want := filepath.Join(dir, "etc/disks/db"); len(c.Volumes) != 1 || c.Volumes[0].Adopt != want {
			t.Errorf("%s: volumes %+v, want one at %s", name, c.Volumes, want)
		}
		if shown := string(c.ShowYAML()); strings.Contains(shown, "include") || !strings.Contains(shown, "name: abs") {
			t.Errorf("%s: the resolved view is not whole by itself:\n%s", name, shown)
		}
		if got := c.Job("a").At; got.File != filepath.Join(dir, "etc/jobs.d/a.yml") || got.Line != 1 {
			t.Errorf("%s: job a at %v", name, got)
		}
	}
}

func TestIncludeProblems(t *testing.T) {
	dir := tree(t, map[string]string{
		"cairn.yml": "include: [gone.yml, more.yml]\njobs:\n- " + snap("a"),
		"more.yml":  "global: {}\ninclude: [x]\njobs:\n- " + snap("a"),
	})
	_, err := config.Load(filepath.Join(dir, "cairn.yml"), options)
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(problems.Error(), dir+"/", "")
	want := `4 problems
  cairn.yml:1:11: cannot include: stat gone.yml: no such file or directory
  more.yml:1:1: unknown key "global" (one of: volumes, jobs)
  more.yml:2:1: unknown key "include" (one of: volumes, jobs)
  more.yml:4:10: a second job "a" (the first is at cairn.yml:3:10)`
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestCertificatesAreChecked(t *testing.T) {
	dir := t.TempDir()
	if _, err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	paths, err := certs.Issue(dir, "vault", []string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	sink := func(ca, cert, key string) []byte {
		return []byte("jobs:\n- name: a\n  type: sink\n  root_volumes: r\n  serve:\n    type: tls\n    listen: \":1\"\n    ca: " + ca + "\n    cert: " + cert + "\n    key: " + key + "\n    client_cns: [x]\n")
	}
	file := filepath.Join(dir, "cairn.yml")
	for _, c := range []struct {
		src  []byte
		skip bool
		want string
	}{
		{sink("ca.pem", paths.Cert, paths.Key), false, ""},
		{sink("gone.pem", paths.Cert, paths.Key), false, `cairn.yml:8:9: .*gone.pem.*does not exist.*cairn cert`},
		{sink("gone.pem", "gone", "gone"), true, ""},
		{sink("ca.pem", "ca.pem", "gone.key"), false, `cairn.yml:10:10: .*gone.key.*does not exist`},
		{sink("ca.pem", "ca.pem", paths.Key), false, `cairn.yml:9:11: `},
	} {
		o := options
		o.SkipFiles = c.skip
		_, err := config.Parse(file, c.src, o)
		switch {
		case c.want == "":
			if err != nil {
				t.Errorf("refused: %v", err)
			}
		case err == nil || !regexp.MustCompile(c.want).MatchString(err.Error()):
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	system := []string{"/etc/cairn/cairn.yml", "/etc/zrepl/zrepl.yml", "/usr/local/etc/zrepl/zrepl.yml"}
	for _, c := range []struct {
		uid  int
		env  func(string) string
		want config.Paths
	}{
		{0, env("HOME", "/root", "XDG_STATE_HOME", "/x"), config.Paths{Search: system, State: "/var/lib/cairn", Runtime: "/run/cairn"}},
		{0, env("CAIRN_CONFIG", "my.yml"), config.Paths{Search: []string{"my.yml"}, State: "/var/lib/cairn", Runtime: "/run/cairn"}},
		{7, env("HOME", "/home/u"), config.Paths{
			Search: append([]string{"/home/u/.config/cairn/cairn.yml"}, system...),
			State:  "/home/u/.local/state/cairn", Runtime: "/home/u/.local/state/cairn/run"}},
		{7, env("HOME", "/home/u", "XDG_CONFIG_HOME", "/c", "XDG_STATE_HOME", "/s", "XDG_RUNTIME_DIR", "/r"), config.Paths{
			Search: append([]string{"/c/cairn/cairn.yml"}, system...), State: "/s/cairn", Runtime: "/r/cairn"}},
		{7, env("HOME", "/home/u", "XDG_STATE_HOME", "relative"), config.Paths{
			Search: append([]string{"/home/u/.config/cairn/cairn.yml"}, system...),
			State:  "/home/u/.local/state/cairn", Runtime: "/home/u/.local/state/cairn/run"}},
		{424242, env(), config.Paths{ // no HOME, and no account
			Search: append([]string{"/.config/cairn/cairn.yml"}, system...),
			State:  "/.local/state/cairn", Runtime: "/.local/state/cairn/run"}},
	} {
		got := config.PathsFor(c.uid, c.env)
		if !slices.Equal(got.Search, c.want.Search) || got.State != c.want.State || got.Runtime != c.want.Runtime {
			t.Errorf("uid %d: %+v, want %+v", c.uid, got, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	dir := tree(t, map[string]string{"b.yml": "", "c.yml": ""})
	at := func(name string) string { return filepath.Join(dir, name) }
	if got, err := config.Find(config.Paths{Search: []string{at("a.yml"), at("b.yml"), at("c.yml")}}); err != nil || got != at("b.yml") {
		t.Errorf("found %s, %v", got, err)
	}
	_, err := config.Find(config.Paths{Search: []string{at("a.yml")}})
	if !errors.Is(err, cairn.KindNotFound) || !strings.Contains(err.Error(), at("a.yml")) {
		t.Errorf("nothing to find: %v", err)
	}
	if _, err := config.Load(at("a.yml"), options); !errors.Is(err, cairn.KindNotFound) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := config.Load(dir, options); err == nil {
		t.Error("a folder was read as a file")
	}
}

func TestEmptyFileGivesDefaults(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "---\n"} {
		c, err := parse("cairn.yml", []byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		g := c.Global
		if len(c.Jobs) != 0 || g.State != "/var/lib/cairn" || g.Control.SockPath != "/run/cairn/control" || c.Runtime() != "/run/cairn" || g.Watchdog.Limit != 10*time.Minute {
			t.Errorf("%q: %+v", text, c)
		}
		if got := c.LogOutlets(); !slices.Equal(got, logging.Default()) {
			t.Errorf("%q: logging %+v", text, got)
		}
	}
}

// The defaults of one stdout outlet that says nothing more are those of no outlet.
func TestLoggingDefaultsAgree(t *testing.T) {
	c, err := parse("cairn.yml", []byte("global: {logging: [{type: stdout}]}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.LogOutlets(); !slices.Equal(got, logging.Default()) {
		t.Errorf("logging %+v, want %+v", got, logging.Default())
	}
}

func TestJobWatchdogInherits(t *testing.T) {
	src := func(own string) []byte {
		return []byte("global: {watchdog: {limit: 15m, phases: {plan: 1m, send: 2m}}}\njobs:\n- " +
			strings.TrimSuffix(snap("a"), "}") + ", watchdog: " + own + "}")
	}
	for own, want := range map[string]config.Watchdog{
		"{}":                   {Limit: 15 * time.Minute, Phases: map[string]time.Duration{"plan": time.Minute, "send": 2 * time.Minute}},
		"{phases: {send: 9m}}": {Limit: 15 * time.Minute, Phases: map[string]time.Duration{"plan": time.Minute, "send": 9 * time.Minute}},
		"{limit: 3m}":          {Limit: 3 * time.Minute},
	} {
		c, err := parse("cairn.yml", src(own))
		if err != nil {
			t.Fatal(err)
		}
		got := c.Jobs[0].Watchdog
		if got.Limit != want.Limit || len(got.Phases) != len(want.Phases) || got.Phases["send"] != want.Phases["send"] || got.Phases["plan"] != want.Phases["plan"] {
			t.Errorf("%s: %+v, want %+v", own, got, want)
		}
		if c.Global.Watchdog.Phases["send"] != 2*time.Minute {
			t.Errorf("%s changed the general limits", own)
		}
	}
}

// Every phase that a verb enters can be given a limit, and no other.
func TestPhasesAreThoseOfTheVerbs(t *testing.T) {
	entered := map[string]bool{}
	enter := regexp.MustCompile(`\.Enter\("([a-z ]+)"\)`)
	err := filepath.WalkDir("../../work", func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range enter.FindAllStringSubmatch(string(text), -1) {
			entered[m[1]] = true
		}
		return err
	})
	if err != nil || len(entered) < 3 {
		t.Fatal("cannot read the verbs: ", err, entered)
	}
	for phase := range entered {
		if _, err := parse("cairn.yml", []byte("global: {watchdog: {phases: {"+phase+": 1m}}}")); err != nil {
			t.Errorf("phase %q of a verb is refused (add it to phases in check.go): %v", phase, err)
		}
	}
}

func TestShowJSONSaysWhatYAMLSays(t *testing.T) {
	src, err := os.ReadFile("testdata/valid/push.yml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse("push.yml", src)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := json.Unmarshal(c.ShowJSON(), &a); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(c.ShowYAML(), &b); err != nil {
		t.Fatal(err)
	}
	x, errX := yaml.Marshal(a)
	y, errY := yaml.Marshal(b)
	if errX != nil || errY != nil || len(x) < 1000 || sorted(string(x)) != sorted(string(y)) {
		t.Errorf("JSON says\n%s\nYAML says\n%s", x, y)
	}
	if again, err := parse("push.yml", c.ShowJSON()); err != nil || string(again.ShowYAML()) != string(c.ShowYAML()) {
		t.Errorf("the JSON view is no configuration that resolves to the same: %v", err)
	}
}

func sorted(text string) string {
	lines := strings.Split(strings.NewReplacer(`"`, "", ".0\n", "\n").Replace(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestSchema(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(config.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	props := func(node any) map[string]any { return node.(map[string]any)["properties"].(map[string]any) }
	jobs := props(schema)["jobs"].(map[string]any)["items"].(map[string]any)["oneOf"].([]any)
	if len(jobs) != 6 {
		t.Fatalf("%d types of jobs", len(jobs))
	}
	push := props(jobs[0])
	if push["type"].(map[string]any)["const"] != "push" || push["serve"] != nil || push["connect"] == nil {
		t.Errorf("a push job has keys %v", push)
	}
	if props(push["pruning"])["keep"] != nil || props(push["pruning"])["keep_sender"] == nil {
		t.Errorf("a push job's pruning has keys %v", props(push["pruning"]))
	}
	var check func(path string, node any)
	check = func(path string, node any) {
		switch n := node.(type) {
		case map[string]any:
			if p, ok := n["properties"].(map[string]any); ok && n["type"] == "object" {
				if n["additionalProperties"] != false {
					t.Errorf("%s takes unknown keys", path)
				}
				for k, v := range p {
					if v.(map[string]any)["description"] == "" {
						t.Errorf("%s.%s has no description", path, k)
					}
				}
			}
			for k, v := range n {
				check(path+"."+k, v)
			}
		case []any:
			for _, v := range n {
				check(path, v)
			}
		}
	}
	check("", schema)
}

// Every key of the grammar stands in the guide.
func TestGuideNamesEveryKey(t *testing.T) {
	guide, err := os.ReadFile("../../../docs/guide/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	keys := config.Keys()
	if len(keys) < 150 {
		t.Fatalf("only %d keys", len(keys))
	}
	for path := range keys {
		name := path[strings.LastIndex(path, ".")+1:]
		if !strings.Contains(string(guide), "`"+name+"`") {
			t.Errorf("the guide does not name `%s` (%s)", name, path)
		}
	}
}

// The samples of the guide are configurations.
func TestGuideSamplesParse(t *testing.T) {
	guide, err := os.ReadFile("../../../docs/guide/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(guide), -1)
	if len(blocks) < 3 {
		t.Fatalf("%d samples", len(blocks))
	}
	for _, b := range blocks {
		if _, err := parse("guide.yml", []byte(b[1])); err != nil {
			t.Errorf("%v\n%s", err, b[1])
		}
	}
}

func TestAliasesDoNotMultiplyWithoutEnd(t *testing.T) {
	var text strings.Builder
	text.WriteString("x: &a0 {type: command, path: /x}\n")
	text.WriteString("jobs:\n- name: a\n  type: snap\n  volumes: {\"<\": true}\n  pruning: {keep: []}\n  snapshotting: &s {type: cron, prefix: p, cron: \"* * * * *\", hooks: &h [")
	for range 1000 {
		text.WriteString("*a0, ")
	}
	text.WriteString("]}\n")
	for n := range 300 {
		text.WriteString("- {name: j" + string(rune('a'+n%26)) + strings.Repeat("x", n/26) + ", type: snap, volumes: {\"<\": true}, pruning: {keep: []}, snapshotting: *s}\n")
	}
	began := time.Now()
	_, err := parse("cairn.yml", []byte(text.String()))
	if err == nil || !strings.Contains(err.Error(), "too many values") {
		t.Errorf("got %.300v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestDeepNestingIsRefused(t *testing.T) {
	for _, text := range []string{strings.Repeat("[", 100_000), strings.Repeat("{a: ", 100_000), strings.Repeat("- ", 100_000), strings.Repeat("x", 5<<20)} {
		if _, err := parse("cairn.yml", []byte(text)); !errors.Is(err, cairn.KindConfig) || !strings.Contains(err.Error(), "deeply nested") {
			t.Errorf("%.10s…: %.200v", text, err)
		}
	}
}

func TestShowRemovesSecrets(t *testing.T) {
	c := &config.Config{Jobs: []*config.Job{{Name: "a", Type: "snap", Snapshotting: config.Snapshotting{Type: "cron",
		Hooks: []config.Hook{{Type: "postgres-checkpoint", DSN: "password=hunter2"}}}}}}
	for _, shown := range [][]byte{c.ShowYAML(), c.ShowJSON()} {
		if strings.Contains(string(shown), "hunter2") || !strings.Contains(string(shown), "(removed)") {
			t.Errorf("shows\n%s", shown)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yml")
	if err != nil || len(files) == 0 {
		f.Fatal("no samples", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if strings.Contains(string(text), "include") {
			t.Skip("reads files")
		}
		c, err := parse("cairn.yml", text)
		if err == nil {
			shown := c.ShowYAML()
			if _, err := parse("cairn.yml", shown); err != nil {
				t.Fatalf("the resolved view does not parse: %v\n%s", err, shown)
			}
			return
		}
		var problems config.Problems
		if !errors.As(err, &problems) {
			t.Fatalf("%T: %v", err, err)
		}
	})
}

func BenchmarkParse1000Jobs(b *testing.B) {
	var text strings.Builder
	text.WriteString("jobs:\n")
	for n := range 1000 {
		text.WriteString("- " + snap("j"+strconv.Itoa(n)) + "\n")
	}
	for b.Loop() {
		if _, err := parse("cairn.yml", []byte(text.String())); err != nil {
			b.Fatal(err)
		}
	}
}
