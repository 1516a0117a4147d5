package zfscases

import (
	"bytes"
	"fmt"
	"testing"

	"cairn"
)

// A receive that was cut before any content came may keep a token of the header alone;
// with it the version arrives all the same, in full and as an increment.
func tokenOfNothing(t *testing.T, w *World) {
	l := w.lab(t)
	src := l.big("src")
	full := cairn.Step{Dataset: src, To: l.id(src, "@b")}
	increment := full
	increment.From = l.id(src, "@a")
	for i, step := range []cairn.Step{full, increment} {
		dst := fmt.Sprintf("%s/dst%d", l.pool, i)
		want := []string{"@b"}
		if !step.From.IsZero() {
			h, all := l.bytes(cairn.Step{Dataset: src, To: step.From})
			_, err := l.receive(dst, h, bytes.NewReader(all))
			l.ok(err)
			want = []string{"@a", "@b"}
		}
		h, all := l.bytes(step)
		_, err := l.receive(dst, h, broken{bytes.NewReader(all[:2000])})
		l.want("a stream that was cut", err, cairn.KindUnavailable)
		if row := l.find(dst); row != nil && row.Partial != nil {
			step.Resume = row.Partial.Token
			t.Logf("%d bytes are kept", row.Partial.Received)
		}
		h, all = l.bytes(step)
		_, err = l.receive(dst, h, bytes.NewReader(all))
		l.ok(err)
		l.wantNames(dst, want...)
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
