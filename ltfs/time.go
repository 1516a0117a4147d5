package ltfs

import "time"

// Timestamp is a point in time as the format writes it: nanoseconds, UTC, any
// year from 0 to 9999. The zero Timestamp is 1970-01-01.
type Timestamp struct {
	Sec  int64  // since 1970-01-01T00:00:00Z
	Nsec uint32 // 0 to 999,999,999
}

// TimestampOf converts a time.
func TimestampOf(t time.Time) Timestamp {
	return Timestamp{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// Time converts to a time in UTC.
func (t Timestamp) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// String is the format's form, always with nine digits of fraction.
func (t Timestamp) String() string { return string(t.append(nil)) }

func (t Timestamp) append(b []byte) []byte {
	days, rest := t.Sec/86400, t.Sec%86400
	if rest < 0 {
		days, rest = days-1, rest+86400
	}
	year, month, day := civil(days)
	b = appendDigits(b, year, 4)
	b = appendDigits(append(b, '-'), month, 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), int(rest/3600), 2)
	b = appendDigits(append(b, ':'), int(rest/60%60), 2)
	b = appendDigits(append(b, ':'), int(rest%60), 2)
	b = appendDigits(append(b, '.'), int(t.Nsec), 9)
	return append(b, 'Z')
}

func appendDigits(b []byte, v, width int) []byte {
	n := len(b)
	for range width {
		b = append(b, '0')
	}
	for i := n + width - 1; i >= n; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return b
}

// civil turns days since 1970-01-01 into a date of the proleptic Gregorian
// calendar; days is its inverse (the 400-year-era arithmetic of H. Hinnant's
// "chrono-Compatible Low-Level Date Algorithms"). The time package gives the same
// at several times the cost, five times per file.
func civil(z int64) (year, month, day int) {
	z += 719468
	era := z / 146097
	if z < 0 {
		era = (z - 146096) / 146097
	}
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day = int(doy - (153*mp+2)/5 + 1)
	month = int(mp + 3)
	if month > 12 {
		month -= 12
	}
	year = int(yoe + era*400)
	if month <= 2 {
		year++
	}
	return year, month, day
}

func days(year, month, day int) int64 {
	y := int64(year)
	if month <= 2 {
		y--
	}
	era := y / 400
	if y < 0 {
		era = (y - 399) / 400
	}
	yoe := y - era*400
	mp := int64(month+9) % 12
	doy := (153*mp+2)/5 + int64(day) - 1
	return era*146097 + yoe*365 + yoe/4 - yoe/100 + doy - 719468
}

var monthDays = [13]int{0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// parseTimestamp reads YYYY-MM-DDThh:mm:ss[.f…]Z; one to nine digits of fraction
// are accepted, more are cut.
func parseTimestamp(s []byte) (Timestamp, bool) {
	if len(s) < 20 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' || s[len(s)-1] != 'Z' {
		return Timestamp{}, false
	}
	ok := true
	num := func(from, to int) int {
		v := 0
		for _, c := range s[from:to] {
			if c < '0' || c > '9' {
				ok = false
			}
			v = v*10 + int(c-'0')
		}
		return v
	}
	year, month, day, hour, minute, second := num(0, 4), num(5, 7), num(8, 10), num(11, 13), num(14, 16), num(17, 19)
	if !ok || month < 1 || month > 12 || day < 1 || day > monthDays[month] || hour > 23 || minute > 59 || second > 60 {
		return Timestamp{}, false
	}
	fraction := s[19 : len(s)-1]
	nsec := 0
	if len(fraction) > 0 {
		if fraction[0] != '.' || len(fraction) == 1 {
			return Timestamp{}, false
		}
		scale := 100_000_000
		for _, c := range fraction[1:] {
			if c < '0' || c > '9' {
				return Timestamp{}, false
			}
			nsec += int(c-'0') * scale
			scale /= 10
		}
	}
	sec := days(year, month, day)*86400 + int64(hour*3600+minute*60+second)
	return Timestamp{Sec: sec, Nsec: uint32(nsec)}, true
}
