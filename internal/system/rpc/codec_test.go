package rpc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"cairn"
)

// random fills v, of any type in a message, from r.
func random(r *rand.Rand, v reflect.Value) {
	switch v.Type() {
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(1<<33)-1<<32, r.Int64N(2)*r.Int64N(1e9)).UTC()))
		return
	case reflect.TypeFor[error]():
		if r.IntN(2) == 0 {
			v.Set(reflect.ValueOf(&cairn.Error{Op: "do", Kind: cairn.Kind(r.IntN(19))}))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			random(r, v.Field(i))
		}
	case reflect.Slice:
		if n := r.IntN(4) - 1; n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
		}
		for i := range v.Len() {
			random(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			random(r, key)
			random(r, value)
			v.SetMapIndex(key, value)
		}
	case reflect.Pointer:
		if r.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			random(r, v.Elem())
		}
	case reflect.String:
		v.SetString(strings.Repeat("ab/@é"[r.IntN(4):], r.IntN(4)))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(r.Int64N(1<<62) >> r.IntN(63))
		if v.Kind() == reflect.Int64 && r.IntN(2) == 0 {
			v.SetInt(-v.Int())
		}
		if v.Kind() == reflect.Int {
			v.SetInt(v.Int() & (1<<31 - 1))
		}
	default:
		v.SetUint(r.Uint64() >> r.IntN(64) & (1<<v.Type().Bits() - 1))
	}
}

// coded is a message made of one value and the function that codes it.
type coded[T any] struct {
	value T
	how   func(*coder, *T)
}

func (m *coded[T]) code(c *coder) { m.how(c, &m.value) }

func roundTrip[T any](t *testing.T, how func(*coder, *T)) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		m := &coded[T]{how: how}
		random(r, reflect.ValueOf(&m.value).Elem())
		wire := encode(m)
		got := &coded[T]{how: how}
		if err := decode(wire, got); err != nil {
			t.Fatalf("%T: %v", m.value, err)
		}
		if !reflect.DeepEqual(m.value, got.value) {
			t.Fatalf("%T:\n%+v came back as\n%+v", m.value, m.value, got.value)
		}
		cut := wire[:r.IntN(len(wire))]
		if decode(cut, &coded[T]{how: how}) == nil {
			t.Fatalf("%T: taken as whole when cut to %d of %d bytes", m.value, len(cut), len(wire))
		}
	}
}

// Every field of every value crosses: a field that is added to the root package
// and forgotten here comes back empty, and fails this.
func TestValuesRoundTrip(t *testing.T) {
	roundTrip(t, codeVersion)
	roundTrip(t, codePartial)
	roundTrip(t, codeDataset)
	roundTrip(t, codeQuery)
	roundTrip(t, codeStep)
	roundTrip(t, codeHeader)
	roundTrip(t, codeInfo)
	roundTrip(t, codeCoverage)
	roundTrip(t, func(c *coder, o *cairn.ReceiveOptions) { text(c, &o.Owner) })
	roundTrip(t, func(c *coder, v *cairn.LeaseSet) {
		m := leaseRequest{*v}
		m.code(c)
		*v = m.set
	})
	roundTrip(t, func(c *coder, v *[]cairn.Captured) {
		m := snapshotAnswer{*v}
		m.code(c)
		*v = m.captured
	})
	roundTrip(t, func(c *coder, v *cairn.Received) {
		m := receiveAnswer{*v}
		m.code(c)
		*v = m.received
	})
	roundTrip(t, func(c *coder, v *[]cairn.Extent) {
		for i := range *v { // sums must not overflow
			(*v)[i].Offset >>= 8
			(*v)[i].Length >>= 8
		}
		m := extentRows{*v}
		m.code(c)
		*v = m.extents
	})
}

func TestListingRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var l cairn.Listing
		random(r, reflect.ValueOf(&l).Elem())
		for i := range l.Versions {
			v := &l.Versions[i]
			v.Leases, v.Stored = v.Leases[:len(v.Leases):len(v.Leases)], v.Stored[:len(v.Stored):len(v.Stored)]
			if len(v.Leases) == 0 { // none and empty are one in a listing
				v.Leases = nil
			}
			if len(v.Stored) == 0 {
				v.Stored = nil
			}
		}
		if l.Versions == nil {
			l.Versions = []cairn.Version{}
		}
		row := appendListing(nil, &l)
		got, err := readListing(row)
		if err != nil || !reflect.DeepEqual(&l, got) {
			t.Fatalf("%v\n%+v came back as\n%+v", err, l, got)
		}
	}
}

func TestErrorsKeepWhatCallersAskFor(t *testing.T) {
	inner := &cairn.Error{Op: "write segment", Subject: "s1", Kind: cairn.KindSpace, Hint: "make room"}
	for _, c := range []struct {
		name string
		err  error
		is   []error
		hint string
	}{
		{"plain", errors.New("boom"), nil, ""},
		{"cairn", inner, []error{cairn.KindSpace}, "make room"},
		{"nested", &cairn.Error{Op: "receive", Subject: "db", Kind: cairn.KindIO, Err: inner}, []error{cairn.KindIO, cairn.KindSpace}, "make room"},
		{"wrapped", fmt.Errorf("while busy: %w", inner), []error{cairn.KindSpace}, "make room"},
		{"cause wrapped", &cairn.Error{Op: "receive", Kind: cairn.KindIO, Err: fmt.Errorf("x: %w", inner)}, []error{cairn.KindIO, cairn.KindSpace}, "make room"},
		{"bare kind", cairn.KindBusy, []error{cairn.KindBusy}, ""},
		{"kind as cause", &cairn.Error{Op: "x", Err: cairn.KindStuck}, []error{cairn.KindStuck}, ""},
		{"place", &cairn.Error{Op: "x", Place: "tape", Kind: cairn.KindDamaged}, []error{cairn.KindDamaged}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f fault
			if err := decode(encode(&fault{c.err}), &f); err != nil {
				t.Fatal(err)
			}
			if f.err.Error() != c.err.Error() {
				t.Errorf("words: %q came back as %q", c.err, f.err)
			}
			if cairn.KindOf(f.err) != cairn.KindOf(c.err) || cairn.HintOf(f.err) != c.hint {
				t.Errorf("kind %v, hint %q", cairn.KindOf(f.err), cairn.HintOf(f.err))
			}
			for _, target := range c.is {
				if !errors.Is(f.err, target) {
					t.Errorf("is no longer %v", target)
				}
			}
		})
	}
	for _, kind := range cairn.Kinds() {
		var f fault
		if err := decode(encode(&fault{&cairn.Error{Op: "x", Kind: kind}}), &f); err != nil || !errors.Is(f.err, kind) {
			t.Errorf("%v: %v, %v", kind, f.err, err)
		}
	}
}

func TestHostileCountsAllocateNothing(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	for name, m := range map[string]message{
		"list": &destroyAnswer{}, "text": &datasetRequest{}, "bytes": &attach{}, "reports": &reports{},
	} {
		bytesBefore := testing.AllocsPerRun(1, func() {
			if decode(bytes.Clone(huge), m) == nil {
				t.Errorf("%s: taken", name)
			}
		})
		if bytesBefore > 10 {
			t.Errorf("%s: %v allocations", name, bytesBefore)
		}
	}
	row := appendListing(nil, &cairn.Listing{})
	if _, err := readListing(append(row[:len(row)-1], huge...)); err == nil {
		t.Error("a listing of 4 billion versions in 5 bytes was taken")
	}
	deep := bytes.Repeat([]byte{faultText, 0}, 1000)
	var f fault
	if decode(deep, &f) == nil {
		t.Error("an error 1000 deep was taken")
	}
}

func TestRowsAreCutAnywhere(t *testing.T) {
	s := &serving{callee: &callee{}, credit: 1 << 30}
	var want []string
	for i := range 200 {
		row := strings.Repeat("r", i*7%300)
		want = append(want, row)
		if err := s.row(t.Context(), []byte(row)); err != nil { // below one piece: nothing is sent
			t.Fatal(err)
		}
		if len(s.rows) > rowsPiece-1000 {
			break
		}
	}
	stream := s.rows
	for size := 1; size < 200; size += 13 {
		var cut rowCutter
		var got []string
		for at := 0; at < len(stream); at += size {
			if err := cut.each(stream[at:min(at+size, len(stream))], func(row []byte) bool { got = append(got, string(row)); return true }); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(got, want) || len(cut.left) > 0 {
			t.Fatalf("pieces of %d: %d rows of %d, %d bytes left", size, len(got), len(want), len(cut.left))
		}
	}
	var cut rowCutter
	if cut.each([]byte{0xff, 0xff, 0xff, 0xff, 0x7f}, func([]byte) bool { return true }) == nil {
		t.Error("a row of 32 GiB was begun")
	}
}

// sample is what a place with regular snapshots lists.
func sample(n int) *cairn.Listing {
	l := &cairn.Listing{Dataset: cairn.Dataset{Name: "tank/home", Kind: cairn.KindVolume, ID: 7, Size: 1 << 34}}
	r := rand.New(rand.NewPCG(5, 6))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range n {
		at = at.Add(10 * time.Minute)
		l.Versions = append(l.Versions, cairn.Version{
			VersionID: cairn.VersionID{Name: "@cairn_" + at.Format("20060102_150405") + "_000", GUID: cairn.GUID(r.Uint64())},
			Order:     uint64(i + 1), Created: at, Size: 1 << 34, Unique: r.Int64N(1 << 30),
		})
	}
	return l
}

func TestListingIsCompact(t *testing.T) {
	l := sample(1000)
	perVersion := len(appendListing(nil, l)) / len(l.Versions)
	if perVersion > 47 {
		t.Errorf("%d bytes per version", perVersion)
	}
	t.Logf("%d bytes per version", perVersion)
}

func BenchmarkListingEncode(b *testing.B) {
	l := sample(1000)
	var row []byte
	for b.Loop() {
		row = appendListing(row[:0], l)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(l.Versions)), "ns/version")
	b.ReportMetric(float64(len(row))/float64(len(l.Versions)), "B/version")
}

func BenchmarkListingDecode(b *testing.B) {
	row := appendListing(nil, sample(1000))
	for b.Loop() {
		if _, err := readListing(row); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/version")
}
