package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"

	"cairn"
	"cairn/client"
)

type handlers struct {
	daemon Daemon
}

func (h *handlers) version(*http.Request) (any, error) { return h.daemon.Version(), nil }

func (h *handlers) status(r *http.Request) (any, error) {
	limit, err := number(r, "limit", client.DefaultRows)
	if err != nil {
		return nil, err
	}
	return h.daemon.Status(r.Context(), client.StatusQuery{Job: r.URL.Query().Get("job"), Limit: limit})
}

func (h *handlers) listings(r *http.Request) (any, error) {
	q := r.URL.Query()
	return h.daemon.Listings(r.Context(), q.Get("dataset"), q.Get("place"))
}

func (h *handlers) jobs(*http.Request) (any, error) { return h.daemon.Jobs(), nil }

func (h *handlers) wake(r *http.Request) (any, error) {
	w, err := body[client.Wake](r)
	if err != nil {
		return nil, err
	}
	return h.daemon.Wake(r.Context(), r.PathValue("job"), w)
}

func (h *handlers) cancel(r *http.Request) (any, error) {
	return nil, h.daemon.Cancel(r.PathValue("job"))
}

func (h *handlers) reset(r *http.Request) (any, error) {
	return nil, h.daemon.Reset(r.PathValue("job"))
}

func (h *handlers) history(r *http.Request) (any, error) {
	limit, err := number(r, "limit", 20)
	if err != nil {
		return nil, err
	}
	return h.daemon.History(r.PathValue("job"), min(limit, maxHistory))
}

func (h *handlers) run(r *http.Request) (any, error) {
	id, err := strconv.ParseUint(r.PathValue("run"), 10, 64)
	if err != nil {
		return nil, &cairn.Error{Op: "find run", Subject: r.PathValue("run"), Kind: cairn.KindInvalid, Err: err}
	}
	ctx, cancel := context.WithTimeout(r.Context(), waitForRun)
	defer cancel()
	return h.daemon.Run(ctx, r.PathValue("job"), id, r.URL.Query().Get("wait") == "true")
}

func (h *handlers) prunePreview(r *http.Request) (any, error) {
	return h.daemon.PrunePreview(r.Context(), r.PathValue("job"))
}

func (h *handlers) volume(r *http.Request) (any, error) {
	name := r.URL.Query().Get("name")
	if err := cairn.CheckDatasetName(name); err != nil {
		return nil, err
	}
	return h.daemon.Volume(r.Context(), name)
}

func (h *handlers) createVolume(r *http.Request) (any, error) {
	v, err := body[client.NewVolume](r)
	if err != nil {
		return nil, err
	}
	return nil, h.daemon.CreateVolume(r.Context(), v)
}

func (h *handlers) rescan(r *http.Request) (any, error) { return nil, h.daemon.Rescan(r.Context()) }

func (h *handlers) setHashes(r *http.Request) (any, error) {
	on := r.URL.Query().Get("on") == "true"
	return h.onVolume(func(ctx context.Context, name string) error { return h.daemon.SetHashes(ctx, name, on) })(r)
}

func (h *handlers) onVolume(act func(context.Context, string) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		name := r.URL.Query().Get("name")
		if err := cairn.CheckDatasetName(name); err != nil {
			return nil, err
		}
		return nil, act(r.Context(), name)
	}
}

// serve answers with a line once the daemon listens, and with a second one when
// that ends before the client goes.
func (h *handlers) serve(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s, err := body[client.Serve](r)
	if err != nil {
		refuse(w, err)
		return
	}
	var began sync.Once
	err = h.daemon.ServeVolumes(r.Context(), s, func(at client.Serving) {
		began.Do(func() {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(at) // when this fails, so does the context
			_ = http.NewResponseController(w).Flush()
		})
	})
	if err == nil || r.Context().Err() != nil {
		return
	}
	listening := true
	began.Do(func() { listening = false })
	if !listening {
		refuse(w, err)
		return
	}
	_ = client.EncodeError(w, err) // the client has gone when this fails
}
