package zfsstream_test

import (
	"os"
	"strings"
	"testing"

	"cairn"
	"cairn/internal/format/zfsstream"
)

// The tokens of OpenZFS read as `zfs send -nvt` prints them.
func TestTokens(t *testing.T) {
	text, err := os.ReadFile("testdata/tokens.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := []zfsstream.Token{
		{ToName: "p1/t/v@a", ToGUID: 0xc701cdaf0f591070, Object: 1, Bytes: 0x13a8},
		{ToName: "p1/t/v@a", ToGUID: 0xc701cdaf0f591070, Object: 1, Offset: 0x3000, Bytes: 0x1f80, Embedded: true, Compressed: true},
	}
	for i, s := range strings.Fields(string(text)) {
		got, err := zfsstream.ParseToken(s)
		if err != nil || len(got.Other) > 0 || got.String() != want[i].String() {
			t.Errorf("token %d: %+v, %v", i, got, err)
		}
		again, err := zfsstream.ParseToken(got.String())
		if err != nil || again.String() != got.String() {
			t.Errorf("token %d written anew: %+v, %v", i, again, err)
		}
		for at := range len(s) {
			changed := s[:at] + string(s[at]^1) + s[at+1:]
			if _, err := zfsstream.ParseToken(changed); err == nil && at > 1 {
				t.Errorf("token %d: byte %d changed and not noticed", i, at)
			} else if err != nil && cairn.KindOf(err) != cairn.KindInvalid {
				t.Errorf("token %d, byte %d: %v", i, at, err)
			}
		}
	}
}

func FuzzToken(f *testing.F) {
	text, err := os.ReadFile("testdata/tokens.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range strings.Fields(string(text)) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := zfsstream.ParseToken(s)
		if err != nil {
			return
		}
		if again, err := zfsstream.ParseToken(token.String()); err != nil || again.String() != token.String() {
			t.Errorf("%+v, %v", again, err)
		}
	})
}
