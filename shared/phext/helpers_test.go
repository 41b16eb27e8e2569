package phext

import (
	"os"
	"strings"
	"testing"
)

// MustParse returns the coordinate s names.
func MustParse(t testing.TB, s string) Coordinate {
	t.Helper()
	c, err := ParseCoordinate(s)
	if err != nil {
		t.Fatalf("parse %q: %v", s, err)
	}
	return c
}

// MustRead returns a file of testdata.
func MustRead(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatalf("read test data: %v", err)
	}
	return text
}

// naiveScroll is what naiveParse finds: text at nine plain numbers.
type naiveScroll struct {
	at   [9]int
	text string
}

// naiveParse reads a document one byte at a time, with nothing in common with
// Scan but the definition of a phext. overflow is the offset of the first break
// that leads beyond 65535, or -1; reading stops there.
func naiveParse(text string) (scrolls []naiveScroll, overflow int) {
	at := [9]int{1, 1, 1, 1, 1, 1, 1, 1, 1}
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			scrolls = append(scrolls, naiveScroll{at, b.String()})
			b.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		d := -1
		switch text[i] {
		case 0x01: // library
			d = 0
		case 0x1F: // shelf
			d = 1
		case 0x1E: // series
			d = 2
		case 0x1D: // collection
			d = 3
		case 0x1C: // volume
			d = 4
		case 0x1A: // book
			d = 5
		case 0x19: // chapter
			d = 6
		case 0x18: // section
			d = 7
		case 0x17: // scroll
			d = 8
		}
		if d < 0 {
			b.WriteByte(text[i])
			continue
		}
		flush()
		if at[d]++; at[d] > 65535 {
			return scrolls, i
		}
		for f := d + 1; f < 9; f++ {
			at[f] = 1
		}
	}
	flush()
	return scrolls, -1
}

// numbers returns a coordinate as naiveParse writes one.
func numbers(c Coordinate) (n [9]int) {
	for d := range c {
		n[d] = int(c[d])
	}
	return n
}
