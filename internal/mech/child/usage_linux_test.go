package child

import "testing"

func TestParseStat(t *testing.T) {
	got, err := parseStat("42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 27 0 0 20 0 1 0 99\n")
	if err != nil || got != 177 {
		t.Errorf("%d, %v", got, err)
	}
	for _, bad := range []string{"", "42 (x) S 1 2 3", "42 (x) S 1 2 3 4 5 6 7 8 9 10 x y 0"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q gives %d", bad, got)
		}
	}
}

func TestParseIO(t *testing.T) {
	if got := parseIO("rchar: 100\nwchar: 23\nsyscr: 5\nread_bytes: 4096\n"); got != 123 {
		t.Errorf("%d", got)
	}
}
