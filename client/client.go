package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"cairn"
)

// Client calls one daemon. It is safe for use from several goroutines.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the daemon whose control socket is at the path. It does
// not connect; the first call does.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version tells who answers.
func (c *Client) Version(ctx context.Context) (*Version, error) {
	return get[*Version](ctx, c, "/v1/version", nil)
}

// Status tells how protection stands.
func (c *Client) Status(ctx context.Context, q StatusQuery) (*Status, error) {
	v := url.Values{}
	if q.Job != "" {
		v.Set("job", q.Job)
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return get[*Status](ctx, c, "/v1/status", v)
}

// Jobs lists the configured jobs in the order of the file.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	return get[[]Job](ctx, c, "/v1/jobs", nil)
}

// Wake makes a job run now, or once more after its present run, and returns the
// run that carries the request out as soon as it has begun.
func (c *Client) Wake(ctx context.Context, job string, w Wake) (*Run, error) {
	return call[*Run](ctx, c, http.MethodPost, jobPath(job, "/wake"), nil, w)
}

// Cancel ends the job's present run; without one it does nothing.
func (c *Client) Cancel(ctx context.Context, job string) error {
	_, err := call[none](ctx, c, http.MethodPost, jobPath(job, "/cancel"), nil, nil)
	return err
}

// Reset cancels the job's present run, forgets its waits for retries and lets its
// schedule start anew.
func (c *Client) Reset(ctx context.Context, job string) error {
	_, err := call[none](ctx, c, http.MethodPost, jobPath(job, "/reset"), nil, nil)
	return err
}

// History lists the job's runs, newest first, with their steps.
func (c *Client) History(ctx context.Context, job string, limit int) ([]Run, error) {
	return get[[]Run](ctx, c, jobPath(job, "/runs"), url.Values{"limit": {strconv.Itoa(limit)}})
}

// Run returns one run of the job; with wait the answer comes when the run has
// ended or about 30 seconds have passed.
func (c *Client) Run(ctx context.Context, job string, id uint64, wait bool) (*Run, error) {
	v := url.Values{}
	if wait {
		v.Set("wait", "true")
	}
	return get[*Run](ctx, c, jobPath(job, "/runs/"+strconv.FormatUint(id, 10)), v)
}

// PrunePreview shows what a prune of the job would do now, and why.
func (c *Client) PrunePreview(ctx context.Context, job string) ([]PruneSide, error) {
	return get[[]PruneSide](ctx, c, jobPath(job, "/prune"), nil)
}

// Listings returns what is known of the dataset (empty: of all) at every place,
// or at one. A place that does not answer is listed as it was last seen.
func (c *Client) Listings(ctx context.Context, dataset, place string) ([]Place, error) {
	return get[[]Place](ctx, c, "/v1/listings", url.Values{"dataset": {dataset}, "place": {place}})
}

// Rescan makes the daemon look for volumes that others created.
func (c *Client) Rescan(ctx context.Context) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/volumes/rescan", nil, nil)
	return err
}

// Volume tells where a volume lies and who owns it.
func (c *Client) Volume(ctx context.Context, name string) (Volume, error) {
	return get[Volume](ctx, c, "/v1/volumes/show", url.Values{"name": {name}})
}

// CreateVolume makes or adopts a volume that the daemon hosts from then on.
func (c *Client) CreateVolume(ctx context.Context, v NewVolume) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/volumes", nil, v)
	return err
}

// ReleaseVolume ends the protection of an adopted volume; the origin keeps its
// content, the versions are gone.
func (c *Client) ReleaseVolume(ctx context.Context, name string) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/volumes/release", url.Values{"name": {name}}, nil)
	return err
}

// DestroyVolume destroys a volume with all its versions and, when it is ours, its
// content.
func (c *Client) DestroyVolume(ctx context.Context, name string) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/volumes/destroy", url.Values{"name": {name}}, nil)
	return err
}

// MarkDirty makes everything in the volume count as changed since its newest
// version.
func (c *Client) MarkDirty(ctx context.Context, name string) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/volumes/mark-dirty", url.Values{"name": {name}}, nil)
	return err
}

// SetHashes gives the volume a block hash table, or takes it away.
func (c *Client) SetHashes(ctx context.Context, name string, on bool) error {
	_, err := call[none](ctx, c, http.MethodPost, "/v1/volumes/hashes", url.Values{"name": {name}, "on": {strconv.FormatBool(on)}}, nil)
	return err
}

// Serve exports volumes over NBD until the context ends; ready is told the
// address once the daemon listens.
func (c *Client) Serve(ctx context.Context, s Serve, ready func(Serving)) error {
	resp, err := c.send(ctx, http.MethodPost, "/v1/serve", nil, s)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answers := json.NewDecoder(resp.Body)
	var at Serving
	if err := answers.Decode(&at); err != nil {
		return c.unavailable("serve", err)
	}
	ready(at)
	var end errorBody
	if err := answers.Decode(&end); err == nil && end.Error != nil {
		return end.Error.asError()
	}
	if ctx.Err() != nil {
		return nil
	}
	return c.unavailable("serve", errors.New("the daemon went away"))
}

type none struct{}

func jobPath(job, rest string) string { return "/v1/jobs/" + url.PathEscape(job) + rest }

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	return call[T](ctx, c, http.MethodGet, path, query, nil)
}

func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (T, error) {
	var out T
	resp, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return out, err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, isNone := any(out).(none); isNone {
		_, err = io.Copy(io.Discard, resp.Body)
		return out, err
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, c.unavailable("read answer of daemon", err)
	}
	return out, nil
}

// send makes one request and turns an error answer into an error.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, &cairn.Error{Op: "encode request", Subject: path, Kind: cairn.KindInvalid, Err: err}
		}
		content = bytes.NewReader(text)
	}
	target := url.URL{Scheme: "http", Host: "cairn", Path: path, RawQuery: query.Encode()}
	target.Path, _ = url.PathUnescape(path)
	target.RawPath = path
	req, err := http.NewRequestWithContext(ctx, method, target.String(), content)
	if err != nil {
		return nil, &cairn.Error{Op: "make request", Subject: path, Kind: cairn.KindInvalid, Err: err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, &cairn.Error{Op: "ask daemon", Kind: cairn.KindCanceled, Err: ctx.Err()}
		}
		return nil, c.unavailable("reach daemon", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, c.refusal(resp)
}

func (c *Client) refusal(resp *http.Response) error {
	var body errorBody
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&body); err != nil || body.Error == nil {
		return c.unavailable("reach daemon", errors.New("it answers "+resp.Status))
	}
	return body.Error.asError()
}

func (c *Client) unavailable(op string, err error) error {
	// The path and the method are said already.
	var call *url.Error
	if errors.As(err, &call) {
		err = call.Err
	}
	var dial *net.OpError
	if errors.As(err, &dial) {
		err = dial.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		return &cairn.Error{Op: op, Subject: c.socket, Kind: cairn.KindPermission, Err: err, Hint: "only the user who runs the daemon, and root, may"}
	}
	return &cairn.Error{Op: op, Subject: c.socket, Kind: cairn.KindUnavailable, Err: err, Hint: "is it running? start it with 'cairn daemon'"}
}
