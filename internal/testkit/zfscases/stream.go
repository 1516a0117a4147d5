package zfscases

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/format/zfsstream"
	"cairn/internal/system/zfs"
)

// streamCases are about single sends and receives.
var streamCases = []Case{
	{"ReceiveForceIntoEncryptedErr", receiveIntoEncrypted},
	{"ReceiveForceRollbackWorksUnencrypted", receiveAfterRollback},
	{"ResumableRecvAndTokenHandling", resumable},
	{"ResumeTokenParsing", tokenParsing},
	{"SendArgsValidationEncryptedSendOfUnencryptedDatasetForbidden", sendEncryptedOfPlain},
	{"SendArgsValidationRawSendOfEncryptedForbidden", sendRawUnasked},
	{"SendArgsValidationResumeTokenEncryptionMismatchForbidden", sendTokenRaw},
	{"SendArgsValidationResumeTokenDifferentVersionForbidden", sendTokenOther},
	{"SendArgsValidationResumeTokenMalformed", sendTokenMalformed},
	{"SendStreamCloseAfterBlockedOnPipeWrite", closeWhileBlocked},
	{"SendStreamCloseAfterEOFRead", closeAfterEOF},
	{"SendStreamMultipleCloseAfterEOF", closeAfterEOFTwice},
	{"SendStreamMultipleCloseBeforeEOF", closeBeforeEOFTwice},
	{"SendStreamNonEOFReadErrorHandling", readError},
	{"ReceiveFlippedBit", receiveFlipped},
	{"ReceiveBeyondEnd", receiveBeyondEnd},
	{"ReceiveWrongHeader", receiveWrongHeader},
	{"ReceiveAgain", receiveAgain},
	{"SendManyVersions", sendMany},
	{"DeadToken", deadToken},
	{"TokenOfNothing", tokenOfNothing},
	{"EncryptedRawChain", rawChain},
	{"RenamedByGUID", renamed},
}

func (l *lab) send(ep *cairn.Endpoint, step cairn.Step) *cairn.Stream {
	l.Helper()
	s, err := ep.Sender.Send(l.Context(), step, []cairn.Format{cairn.FormatZFS})
	l.ok(err)
	return s
}

// bytes is a whole stream.
func (l *lab) bytes(step cairn.Step) (cairn.StreamHeader, []byte) {
	l.Helper()
	s := l.send(l.ep, step)
	all, err := io.ReadAll(s.Body)
	l.ok(errors.Join(err, s.Body.Close()))
	return s.Header, all
}

func (l *lab) receive(to string, h cairn.StreamHeader, body io.Reader) (cairn.Received, error) {
	h.Dataset = to
	return l.ep.Receiver.Receive(l.Context(), &cairn.Stream{Header: h, Body: io.NopCloser(body)}, cairn.ReceiveOptions{Owner: owner})
}

// broken is a body that fails after some bytes.
type broken struct {
	io.Reader
}

var errLine = &cairn.Error{Op: "read", Kind: cairn.KindUnavailable, Err: errors.New("the line was cut")}

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errLine
	}
	return n, err
}

// encrypted makes a filesystem with a key that is loaded.
func (l *lab) encrypted(short string) string {
	l.Helper()
	name := l.pool + "/" + short
	key := filepath.Join(l.TempDir(), "key")
	l.ok(os.WriteFile(key, bytes.Repeat([]byte("k"), 32), 0o600))
	l.zfs("create", "-o", "encryption=aes-256-gcm", "-o", "keyformat=raw", "-o", "keylocation=file://"+key, name)
	return name
}

// A placeholder in an encrypted dataset cannot be replaced by what is not: it is
// said, and the placeholder stays.
func receiveIntoEncrypted(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.filesystem("src", "1")
	enc := l.encrypted("enc")
	l.zfs("create", "-o", zrepl+"=on", "-o", "mountpoint=none", enc+"/ph")
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@1")})
	_, err := l.receive(enc+"/ph", h, bytes.NewReader(all))
	if !l.Fake && err == nil {
		return // OpenZFS 2.4 encrypts what it receives below
	}
	l.want("receive over an encrypted placeholder", err, cairn.KindConflict)
	l.wantNames(enc + "/ph")
}

func receiveAfterRollback(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.zvol("src", "a", "b")
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	dst := l.pool + "/dst"
	_, err := l.receive(dst, h, bytes.NewReader(all))
	l.ok(err)
	l.zfs("inherit", "readonly", dst) // as zrepl leaves it
	l.ok(l.Write(dst, 0, bytes.Repeat([]byte("x"), 8192)))
	h, all = l.bytes(cairn.Step{Dataset: src, From: l.id(src, "@a"), To: l.id(src, "@b")})
	_, err = l.receive(dst, h, bytes.NewReader(all))
	l.want("receive onto a head that was written to", err, cairn.KindConflict)
	l.ok(l.ep.Rollbacks.Rollback(l.Context(), dst, l.id(dst, "@a"), false))
	_, err = l.receive(dst, h, bytes.NewReader(all))
	l.ok(err)
	l.wantNames(dst, "@a", "@b")
	l.wantSame(src+"@b", dst+"@b")
	l.ok(l.ep.Seals.Seal(l.Context(), dst, false))
	l.zfs("destroy", dst+"@b")
	_, err = l.receive(dst, h, bytes.NewReader(all))
	l.want("receive onto a head that was unsealed", err, cairn.KindConflict)
}

// cut receives the first part of a step and returns what was kept.
func (l *lab) cut(to string, step cairn.Step, part float64) *cairn.Partial {
	l.Helper()
	h, all := l.bytes(step)
	_, err := l.receive(to, h, broken{bytes.NewReader(all[:int(float64(len(all))*part)])})
	l.want("a stream that was cut", err, cairn.KindUnavailable)
	p := l.list(to).Partial
	if p == nil || len(p.Token) == 0 || p.To != step.To || p.From.GUID != step.From.GUID || p.Received <= 0 {
		l.Fatalf("of a cut stream is kept %+v", p)
	}
	return p
}

// big makes a zvol with a snapshot a, and a lot written before b.
func (l *lab) big(short string) string {
	l.Helper()
	name := l.zvol(short, "a")
	l.ok(l.Write(name, 0, pattern(zvolBytes)))
	l.zfs("snapshot", name+"@b")
	return name
}

func resumable(t *testing.T, w *World) {
	l := w.lab(t)
	src, dst := l.big("src"), l.pool+"/dst"
	full := cairn.Step{Dataset: src, To: l.id(src, "@b")}
	p := l.cut(dst, full, 0.6)
	l.wantNames(dst)
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	_, err := l.receive(dst, h, bytes.NewReader(all))
	l.want("another stream onto a cut receive", err, cairn.KindConflict)
	_, all = l.bytes(full)
	full.Resume = p.Token
	h, rest := l.bytes(full)
	if h.Resume <= 0 || len(rest) > len(all)*3/4 {
		l.Errorf("resumed at %d with %d of %d bytes", h.Resume, len(rest), len(all))
	}
	_, err = l.receive(dst, h, bytes.NewReader(rest))
	l.ok(err)
	if p := l.list(dst).Partial; p != nil {
		l.Errorf("after the rest there is still a partial: %+v", p)
	}
	l.wantNames(dst, "@b")
	l.wantSame(src+"@b", dst+"@b")
	if !l.list(dst).Dataset.Sealed {
		l.Error("a replica that came in two parts is not sealed")
	}

	inc := l.pool + "/inc"
	h, all = l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	_, err = l.receive(inc, h, bytes.NewReader(all))
	l.ok(err)
	step := cairn.Step{Dataset: src, From: l.id(src, "@a"), To: l.id(src, "@b")}
	l.cut(inc, step, 0.6)
	l.want("destroy of the base of a cut increment", l.destroy(inc, l.id(inc, "@a")), cairn.KindBusy)
	for range 2 {
		l.ok(l.ep.Receiver.Abort(l.Context(), inc))
	}
	if p := l.list(inc).Partial; p != nil {
		l.Errorf("after the abort there is still a partial: %+v", p)
	}
	p = l.cut(inc, step, 0.8)
	step.Resume = p.Token
	h, all = l.bytes(step)
	_, err = l.receive(inc, h, bytes.NewReader(all))
	l.ok(err)
	l.wantSame(src+"@b", inc+"@b")
}

func tokenParsing(t *testing.T, w *World) {
	l := w.lab(t)
	src, dst := l.big("src"), l.pool+"/dst"
	p := l.cut(dst, cairn.Step{Dataset: src, To: l.id(src, "@b")}, 0.5)
	tok, err := zfsstream.ParseToken(string(p.Token))
	l.ok(err)
	if tok.ToName != src+"@b" || tok.ToGUID != p.To.GUID || tok.Raw || tok.Offset == 0 || !strings.HasPrefix(string(p.Token), "1-") {
		l.Errorf("the token is %+v", tok)
	}
}

// refused is the error of a send.
func refused(l *lab, ep *cairn.Endpoint, step cairn.Step) error {
	l.Helper()
	s, err := ep.Sender.Send(l.Context(), step, []cairn.Format{cairn.FormatZFS})
	if err == nil {
		_ = s.Body.Close() // the test fails in any case
	}
	return err
}

func sendEncryptedOfPlain(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("plain", "1")
	ep := l.place.Endpoint(zfs.Job{Send: zfs.SendOptions{Encrypted: true}})
	l.want("encrypted send of a plain filesystem", refused(l, ep, cairn.Step{Dataset: fs, To: l.id(fs, "@1")}), cairn.KindUnsupported)
}

func sendRawUnasked(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.encrypted("enc")
	l.zfs("snapshot", fs+"@1")
	ep := l.place.Endpoint(zfs.Job{Send: zfs.SendOptions{Raw: true}})
	l.want("raw send of an encrypted filesystem that was not asked for", refused(l, ep, cairn.Step{Dataset: fs, To: l.id(fs, "@1")}), cairn.KindUnsupported)
}

func sendTokenRaw(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.big("src")
	p := l.cut(l.pool+"/dst", cairn.Step{Dataset: src, To: l.id(src, "@b")}, 0.5)
	ep := l.place.Endpoint(zfs.Job{Send: zfs.SendOptions{Raw: true}})
	l.want("a raw job with a token that is not", refused(l, ep, cairn.Step{Dataset: src, To: l.id(src, "@b"), Resume: p.Token}), cairn.KindConflict)
}

func sendTokenOther(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.big("src")
	p := l.cut(l.pool+"/dst", cairn.Step{Dataset: src, To: l.id(src, "@b")}, 0.5)
	l.want("a token of another version", refused(l, l.ep, cairn.Step{Dataset: src, To: l.id(src, "@a"), Resume: p.Token}), cairn.KindConflict)
}

func sendTokenMalformed(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("fs", "1")
	for _, token := range []string{"1-2-3-4", "-nvt", "1-abc", "; true"} {
		l.want("send with the token "+token, refused(l, l.ep, cairn.Step{Dataset: fs, To: l.id(fs, "@1"), Resume: []byte(token)}), cairn.KindConflict)
	}
}

func closeWhileBlocked(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.big("src")
	s := l.send(l.ep, cairn.Step{Dataset: src, To: l.id(src, "@b")})
	l.ok(s.Body.Close()) // the program waits for somebody to read 4 MiB
	if _, err := s.Body.Read(make([]byte, 10)); err == nil || errors.Is(err, io.EOF) {
		l.Errorf("a closed stream reads %v", err)
	}
	l.ok(l.destroy(src, l.id(src, "@b")))
}

func closeAfterEOF(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("fs", "1")
	s := l.send(l.ep, cairn.Step{Dataset: fs, To: l.id(fs, "@1")})
	_, err := io.Copy(io.Discard, s.Body)
	l.ok(errors.Join(err, s.Body.Close()))
	if n, err := s.Body.Read(make([]byte, 10)); n != 0 || err == nil {
		l.Errorf("after the end and a close: %d, %v", n, err)
	}
}

func closeAfterEOFTwice(t *testing.T, w *World) {
	l := w.lab(t)
	fs := l.filesystem("fs", "1")
	s := l.send(l.ep, cairn.Step{Dataset: fs, To: l.id(fs, "@1")})
	_, err := io.Copy(io.Discard, s.Body)
	l.ok(errors.Join(err, s.Body.Close(), s.Body.Close(), s.Body.Close()))
}

func closeBeforeEOFTwice(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.big("src")
	s := l.send(l.ep, cairn.Step{Dataset: src, To: l.id(src, "@b")})
	_, err := io.ReadFull(s.Body, make([]byte, 1000))
	l.ok(errors.Join(err, s.Body.Close(), s.Body.Close()))
}

func readError(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.big("src")
	ctx, cancel := context.WithCancel(l.Context())
	s, err := l.ep.Sender.Send(ctx, cairn.Step{Dataset: src, To: l.id(src, "@b")}, []cairn.Format{cairn.FormatZFS})
	l.ok(err)
	_, err = io.ReadFull(s.Body, make([]byte, 1000))
	l.ok(err)
	cancel()
	for range 2 {
		_, err = io.Copy(io.Discard, s.Body)
		if !errors.Is(err, context.Canceled) {
			l.Errorf("a stream whose context has ended reads %v", err)
		}
	}
	l.ok(s.Body.Close())
}

func receiveFlipped(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.zvol("src", "a", "b")
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@b")})
	for _, at := range []int{len(all) / 2, len(all) - 500, len(all) - 400} {
		bad := bytes.Clone(all)
		bad[at] ^= 4
		_, err := l.receive(l.pool+"/dst", h, bytes.NewReader(bad))
		l.want("a flipped bit", err, cairn.KindCorrupt)
		l.wantNames(l.pool + "/dst")
		l.ok(l.ep.Receiver.Abort(l.Context(), l.pool+"/dst"))
	}
}

func receiveBeyondEnd(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.zvol("src", "a")
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	_, err := l.receive(l.pool+"/dst", h, bytes.NewReader(append(all, 0)))
	l.want("a byte behind the end", err, cairn.KindCorrupt)
	l.wantNames(l.pool + "/dst")
	l.ok(l.ep.Receiver.Abort(l.Context(), l.pool+"/dst"))
	_, err = l.receive(l.pool+"/dst", h, broken{bytes.NewReader(all)})
	l.want("a sender that fails after the end mark", err, cairn.KindUnavailable)
	l.wantNames(l.pool + "/dst")
}

func receiveWrongHeader(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.zvol("src", "a", "b")
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	for what, spoil := range map[string]func(h *cairn.StreamHeader){
		"GUID":    func(h *cairn.StreamHeader) { h.To.GUID++ },
		"name":    func(h *cairn.StreamHeader) { h.To.Name = "@z" },
		"base":    func(h *cairn.StreamHeader) { h.From = l.id(src, "@b") },
		"dataset": func(h *cairn.StreamHeader) { h.Dataset = "-F" },
		"format":  func(h *cairn.StreamHeader) { h.Format = cairn.FormatBlocks },
	} {
		bad := h
		spoil(&bad)
		to := l.pool + "/dst"
		if bad.Dataset == "-F" {
			to = bad.Dataset
		}
		if _, err := l.receive(to, bad, bytes.NewReader(all)); err == nil {
			l.Errorf("a stream was received under a header with another %s", what)
		}
		l.wantNames(l.pool + "/dst")
	}
}

func receiveAgain(t *testing.T, w *World) {
	l := w.lab(t)
	src, dst := l.zvol("src", "a", "b", "c"), l.pool+"/dst"
	h, full := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	hb, inc := l.bytes(cairn.Step{Dataset: src, From: l.id(src, "@a"), To: l.id(src, "@b")})
	hc, far := l.bytes(cairn.Step{Dataset: src, From: l.id(src, "@b"), To: l.id(src, "@c")})
	_, err := l.receive(dst, hc, bytes.NewReader(far))
	l.want("an increment for what is not there", err, cairn.KindConflict)
	for _, kind := range []cairn.Kind{cairn.KindOther, cairn.KindExists} {
		for _, one := range []struct {
			h    cairn.StreamHeader
			body []byte
		}{{h, full}, {hb, inc}} {
			if _, err := l.receive(dst, one.h, bytes.NewReader(one.body)); cairn.KindOf(err) != kind {
				l.Errorf("receive of %s: %v", one.h.To.Name, err)
			}
		}
	}
	l.zfs("destroy", dst+"@b")
	l.place.Endpoint(zfs.Job{}) // another run
	_, err = l.receive(dst, hc, bytes.NewReader(far))
	l.want("an increment on a base that was destroyed", err, cairn.KindConflict)
	l.wantNames(dst, "@a")
}

func sendMany(t *testing.T, w *World) {
	l := w.lab(t)
	src, dst := l.zvol("src", "a", "b", "c", "d"), l.pool+"/dst"
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	_, err := l.receive(dst, h, bytes.NewReader(all))
	l.ok(err)
	step := cairn.Step{Dataset: src, From: l.id(src, "@a"), Via: []cairn.VersionID{l.id(src, "@b")}, To: l.id(src, "@d")}
	l.want("a step that leaves a version out", refused(l, l.ep, step), cairn.KindConflict)
	step.Via = append(step.Via, l.id(src, "@c"))
	h, all = l.bytes(step)
	bad := bytes.Clone(all)
	bad[len(bad)-700] ^= 1
	_, err = l.receive(dst, h, bytes.NewReader(bad))
	l.want("a flipped bit in the last of several", err, cairn.KindCorrupt)
	if got := l.names(dst); len(got) > 3 {
		l.Errorf("after a flipped bit in the last of them there are %v", got)
	}
	l.ok(l.ep.Receiver.Abort(l.Context(), dst))
	l.ok(l.ep.Rollbacks.Rollback(l.Context(), dst, l.id(dst, "@a"), true))
	r, err := l.receive(dst, h, bytes.NewReader(all))
	l.ok(err)
	if len(r.Versions) != 3 || r.Versions[2] != step.To {
		l.Errorf("received %+v", r)
	}
	l.wantNames(dst, "@a", "@b", "@c", "@d")
	l.wantSame(src+"@c", dst+"@c")
	l.wantSame(src+"@d", dst+"@d")
}

// An encrypted filesystem goes raw, full and incremental, to a place without its
// key, and from there to a third.
func rawChain(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.encrypted("enc")
	l.zfs("snapshot", src+"@1")
	l.zfs("snapshot", src+"@2")
	ep := l.place.Endpoint(zfs.Job{Send: zfs.SendOptions{Encrypted: true}, Receive: zfs.ReceiveOptions{Placeholder: zfs.Inherit}})
	l.ep = ep
	from := src
	for _, to := range []string{l.pool + "/second", l.pool + "/third"} {
		h, all := l.bytes(cairn.Step{Dataset: from, To: l.id(from, "@1")})
		_, err := l.receive(to, h, bytes.NewReader(all))
		l.ok(err)
		h, all = l.bytes(cairn.Step{Dataset: from, From: l.id(from, "@1"), To: l.id(from, "@2")})
		_, err = l.receive(to, h, bytes.NewReader(all))
		l.ok(err)
		l.wantNames(to, "@1", "@2")
		if !l.list(to).Dataset.Encrypted {
			l.Errorf("%s is not encrypted", to)
		}
		from = to
	}
}

// A clone's stream on its origin is received as a clone.
// After a rename the versions are the same by GUID, and the increment goes on.
func renamed(t *testing.T, w *World) {
	l := w.lab(t)
	src, dst := l.zvol("src", "a", "b"), l.pool+"/dst"
	h, all := l.bytes(cairn.Step{Dataset: src, To: l.id(src, "@a")})
	_, err := l.receive(dst, h, bytes.NewReader(all))
	l.ok(err)
	was := l.list(src)
	l.ok(l.ep.Renames.Rename(l.Context(), src, l.pool+"/new"))
	l.ok(l.ep.Renames.Rename(l.Context(), dst, l.pool+"/there"))
	if l.find(src) != nil || l.list(l.pool+"/new").Dataset.ID != was.Dataset.ID {
		l.Error("the dataset did not keep its identity")
	}
	step := cairn.Step{Dataset: l.pool + "/new", From: was.Versions[0].VersionID, To: was.Versions[1].VersionID}
	h, all = l.bytes(step)
	_, err = l.receive(l.pool+"/there", h, bytes.NewReader(all))
	l.ok(err)
	l.wantSame(l.pool+"/new@b", l.pool+"/there@b")
	l.want("rename to a name that is taken", l.ep.Renames.Rename(l.Context(), l.pool+"/new", l.pool+"/there"), cairn.KindExists)
}
