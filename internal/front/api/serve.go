package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"cairn"
	"cairn/client"
)

const (
	maxBody    = 1 << 20          // bytes of a request
	waitForRun = 30 * time.Second // how long a request waits for a run to end
	maxHistory = 1000             // runs in one answer
)

// Options of Serve.
type Options struct {
	Daemon Daemon
	Logger *slog.Logger // nil discards
}

// Serve answers requests until the context ends, then ends those under way and
// waits for them for at most two seconds.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	server := &http.Server{
		Handler:           Handler(o),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			_ = server.Close()
		}
	}()
	err := server.Serve(l)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return &cairn.Error{Op: "serve control socket", Subject: l.Addr().String(), Kind: cairn.KindIO, Err: err}
}

// Handler routes the API.
func Handler(o Options) http.Handler {
	h := &handlers{o.Daemon}
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(*http.Request) (any, error){
		"GET /v1/version":               h.version,
		"GET /v1/status":                h.status,
		"GET /v1/listings":              h.listings,
		"GET /v1/jobs":                  h.jobs,
		"POST /v1/jobs/{job}/wake":      h.wake,
		"POST /v1/jobs/{job}/cancel":    h.cancel,
		"POST /v1/jobs/{job}/reset":     h.reset,
		"GET /v1/jobs/{job}/runs":       h.history,
		"GET /v1/jobs/{job}/runs/{run}": h.run,
		"GET /v1/jobs/{job}/prune":      h.prunePreview,
		"GET /v1/volumes/show":          h.volume,
		"POST /v1/volumes":              h.createVolume,
		"POST /v1/volumes/rescan":       h.rescan,
		"POST /v1/volumes/release":      h.onVolume(o.Daemon.ReleaseVolume),
		"POST /v1/volumes/destroy":      h.onVolume(o.Daemon.DestroyVolume),
		"POST /v1/volumes/mark-dirty":   h.onVolume(o.Daemon.MarkDirty),
		"POST /v1/volumes/hashes":       h.setHashes,
	} {
		mux.HandleFunc(pattern, answer(handle))
	}
	mux.HandleFunc("POST /v1/serve", h.serve)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &cairn.Error{Op: "find resource", Subject: r.Method + " " + r.URL.Path, Kind: cairn.KindUnsupported,
			Hint: "the daemon and the command have different versions; restart the daemon"})
	})
	return mux
}

// answer writes a handler's result or error as JSON.
func answer(handle func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		result, err := handle(r)
		if err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if result == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_ = json.NewEncoder(w).Encode(result) // the client has gone when this fails
	}
}

func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(cairn.KindOf(err)))
	_ = client.EncodeError(w, err) // the client has gone when this fails
}

// statusOf picks the HTTP status for tools that look at nothing else; our client
// reads the kind from the body.
func statusOf(k cairn.Kind) int {
	switch k {
	case cairn.KindInvalid, cairn.KindConfig:
		return http.StatusBadRequest
	case cairn.KindNotFound:
		return http.StatusNotFound
	case cairn.KindExists, cairn.KindConflict, cairn.KindBusy:
		return http.StatusConflict
	case cairn.KindPermission, cairn.KindAuth:
		return http.StatusForbidden
	case cairn.KindSpace:
		return http.StatusInsufficientStorage
	case cairn.KindUnavailable, cairn.KindStuck:
		return http.StatusServiceUnavailable
	case cairn.KindUnsupported:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// body decodes a request strictly: a field we do not know is an error, since
// ignoring it could destroy more than was asked.
func body[T any](r *http.Request) (T, error) {
	var v T
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, &cairn.Error{Op: "read request", Subject: r.URL.Path, Kind: cairn.KindInvalid, Err: err}
	}
	return v, nil
}

func number(r *http.Request, key string, fallback int) (int, error) {
	text := r.URL.Query().Get(key)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, &cairn.Error{Op: "read request", Subject: key, Kind: cairn.KindInvalid, Err: errors.New(strconv.Quote(text) + " is no count")}
	}
	return n, nil
}
