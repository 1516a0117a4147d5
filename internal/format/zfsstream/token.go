package zfsstream

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"cairn"
)

// Token says where a cut `zfs receive -s` can go on: the property
// receive_resume_token, which `zfs send -t` takes.
type Token struct {
	ToName   string // POOL/DATASET@SNAPSHOT at the sender
	ToGUID   cairn.GUID
	FromGUID cairn.GUID // zero: a full stream
	Object   uint64     // the stream goes on with this object,
	Offset   uint64     // at this byte
	Bytes    uint64     // received so far
	// The flags the stream was sent with: -L, -e, -c, -w, -S.
	LargeBlocks, Embedded, Compressed, Raw, Saved bool
	Other                                         List // entries that have no field here
}

// maxToken bounds what a token's list may unpack to.
const maxToken = 1 << 20

// ParseToken reads a token; KindInvalid when it is none or was changed.
func ParseToken(s string) (Token, error) {
	t, err := parseToken(strings.TrimSpace(s))
	if err != nil {
		return Token{}, &cairn.Error{Op: "read resume token", Kind: cairn.KindInvalid, Err: err, Hint: "it is the value of `zfs get receive_resume_token`, beginning with 1-"}
	}
	return t, nil
}

func parseToken(s string) (Token, error) {
	parts := strings.Split(s, "-")
	if len(parts) != 4 || parts[0] != "1" {
		return Token{}, errors.New("it does not have the form 1-CHECKSUM-LENGTH-DATA")
	}
	sum, errSum := strconv.ParseUint(parts[1], 16, 64)
	length, errLength := strconv.ParseUint(parts[2], 16, 64)
	packed, errPacked := hex.DecodeString(parts[3])
	if err := errors.Join(errSum, errLength, errPacked); err != nil {
		return Token{}, err
	}
	if length > maxToken {
		return Token{}, fmt.Errorf("a list of %d bytes", length)
	}
	if tokenSum(packed) != sum {
		return Token{}, errors.New("its checksum does not match")
	}
	r, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return Token{}, err
	}
	list, err := io.ReadAll(io.LimitReader(r, int64(length)+1)) // to the end, where zlib's own checksum is
	if err != nil {
		return Token{}, err
	}
	if uint64(len(list)) != length {
		return Token{}, fmt.Errorf("a list of %d bytes, not of %d", len(list), length)
	}
	l, err := parseList(list)
	if err != nil {
		return Token{}, err
	}
	return tokenOf(l)
}

func tokenOf(l List) (Token, error) {
	var t Token
	numbers := map[string]*uint64{"object": &t.Object, "offset": &t.Offset, "bytes": &t.Bytes, "toguid": (*uint64)(&t.ToGUID), "fromguid": (*uint64)(&t.FromGUID)}
	flags := map[string]*bool{"largeblockok": &t.LargeBlocks, "embedok": &t.Embedded, "compressok": &t.Compressed, "rawok": &t.Raw, "savedok": &t.Saved}
	for _, p := range l {
		number, isNumber := p.Value.(uint64)
		switch {
		case numbers[p.Name] != nil && isNumber:
			*numbers[p.Name] = number
		case flags[p.Name] != nil && p.Value == nil:
			*flags[p.Name] = true
		case p.Name == "toname":
			t.ToName, _ = p.Value.(string)
		default:
			t.Other = append(t.Other, p)
		}
	}
	if t.ToGUID == 0 || t.ToName == "" {
		return Token{}, errors.New("it names no snapshot")
	}
	return t, nil
}

// String is the token as OpenZFS writes it. Other is left out.
func (t Token) String() string {
	var l List
	if t.FromGUID != 0 {
		l = append(l, Pair{"fromguid", uint64(t.FromGUID)})
	}
	l = append(l, Pair{"object", t.Object}, Pair{"offset", t.Offset}, Pair{"bytes", t.Bytes}, Pair{"toguid", uint64(t.ToGUID)}, Pair{"toname", t.ToName})
	for _, f := range []struct {
		name string
		set  bool
	}{{"largeblockok", t.LargeBlocks}, {"embedok", t.Embedded}, {"compressok", t.Compressed}, {"rawok", t.Raw}, {"savedok", t.Saved}} {
		if f.set {
			l = append(l, Pair{Name: f.name})
		}
	}
	list := l.appendNative(nil)
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	_, _ = w.Write(list) // a buffer takes all
	_ = w.Close()
	return fmt.Sprintf("1-%x-%x-%x", tokenSum(packed.Bytes()), len(list), packed.Bytes())
}

// tokenSum is the first word of the checksum over the whole words of p.
func tokenSum(p []byte) uint64 {
	var f fletcher
	f.add(p, false)
	return f.a
}
