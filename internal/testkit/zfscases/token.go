package zfscases

import (
	"bytes"
	"fmt"
	"testing"

	"cairn"
)

// A receive that was cut before any content came keeps a token of no bytes; with it
// the version arrives all the same.
func tokenOfNothing(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.big("src")
	for _, size := range []int{1000, 2000, 4000} {
		dst := fmt.Sprintf("%s/dst%d", l.pool, size)
		step := cairn.Step{Dataset: src, To: l.id(src, "@b")}
		h, all := l.bytes(step)
		_, err := l.receive(dst, h, broken{bytes.NewReader(all[:size])})
		l.want("a stream that was cut", err, cairn.KindUnavailable)
		if row := l.find(dst); row != nil && row.Partial != nil {
			step.Resume = row.Partial.Token
			t.Logf("of %d bytes are kept %d", size, row.Partial.Received)
		}
		h, all = l.bytes(step)
		_, err = l.receive(dst, h, bytes.NewReader(all))
		l.ok(err)
		l.wantNames(dst, "@b")
		l.wantSame(src+"@b", dst+"@b")
	}
}

func deadToken(t *testing.T, w *World) {
	l := w.lab(t)
	src, dst := l.big("src"), l.pool+"/dst"
	step := cairn.Step{Dataset: src, To: l.id(src, "@b")}
	p := l.cut(dst, step, 0.5)
	l.zfs("destroy", src+"@b") // behind the place's back
	step.Resume = p.Token
	err := refused(l, l.ep, step)
	if kind := cairn.KindOf(err); kind != cairn.KindConflict && kind != cairn.KindNotFound {
		l.Errorf("a dead token: %v (kind %s)", err, kind)
	}
}
