package client_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"cairn"
	"cairn/client"
)

// answer serves every request on a socket in the same way.
func answer(t *testing.T, status int, body string) *client.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "cl")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	})}
	go func() { _ = server.Serve(l) }()
	c := client.New(socket)
	t.Cleanup(func() {
		c.Close()
		_ = server.Close()
		_ = os.RemoveAll(dir)
	})
	return c
}

func TestAnswersOfSomethingElseAreUnavailable(t *testing.T) {
	for _, a := range []struct {
		status int
		body   string
	}{{200, "hello"}, {200, ""}, {500, "oops"}, {404, `{"error": null}`}, {302, ""}} {
		_, err := answer(t, a.status, a.body).Version(t.Context())
		if !errors.Is(err, cairn.KindUnavailable) || cairn.HintOf(err) == "" {
			t.Errorf("%d %q: %v", a.status, a.body, err)
		}
	}
}

func TestFieldsOfANewerDaemonAreIgnored(t *testing.T) {
	v, err := answer(t, 200, `{"version": "9", "pid": 4, "mood": "fine"}`).Version(t.Context())
	if err != nil || v.Version != "9" || v.PID != 4 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestKindOfANewerDaemonIsKept(t *testing.T) {
	err := answer(t, 500, `{"error": {"op": "x", "kind": 200, "word": "new"}}`).Reset(t.Context(), "j")
	if cairn.KindOf(err) != cairn.Kind(200) {
		t.Errorf("%v", err)
	}
}
