package ltfs

import (
	"strings"
	"unicode/utf8"
)

// MaxNameRunes is the longest name of a file or directory, in code points.
const MaxNameRunes = 255

// CheckName refuses names the format cannot hold.
func CheckName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return formatError("name", "%q is not a name", name)
	case !utf8.ValidString(name):
		return formatError("name", "%q is not valid UTF-8", name)
	case strings.ContainsAny(name, "/\x00"):
		return formatError("name", "%q contains '/' or NUL", name)
	case utf8.RuneCountInString(name) > MaxNameRunes:
		return formatError("name", "%.32q… has more than %d characters", name, MaxNameRunes)
	}
	return nil
}

// xmlLegal reports whether XML 1.0 can hold the character at all.
func xmlLegal(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000
}

// needsPercent reports whether a name is written percent-encoded: it contains ':'
// or something that XML cannot hold.
func needsPercent(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c == ':' || c < 0x20 && c != '\t' && c != '\n' && c != '\r' {
			return true
		}
		if c >= 0x80 {
			return !utf8.ValidString(name[i:]) ||
				strings.IndexFunc(name[i:], func(r rune) bool { return r == ':' || !xmlLegal(r) }) >= 0
		}
	}
	return false
}

const upperHex = "0123456789ABCDEF"

// appendPercent appends the name with every byte outside printable ASCII, and
// space, '%' and ':', as %XX in upper case.
func appendPercent(b []byte, name string) []byte {
	for i := range len(name) {
		c := name[i]
		if c > 0x20 && c < 0x7F && c != ':' && c != '%' {
			b = append(b, c)
			continue
		}
		b = append(b, '%', upperHex[c>>4], upperHex[c&15])
	}
	return b
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// decodePercent undoes appendPercent in place of the text; hex digits of either
// case are accepted.
func decodePercent(text string) (string, bool) {
	if strings.IndexByte(text, '%') < 0 {
		return text, true
	}
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b = append(b, text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", false
		}
		hi, lo := unhex(text[i+1]), unhex(text[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), true
}
