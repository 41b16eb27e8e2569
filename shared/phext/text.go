package phext

import (
	"bytes"
	"encoding/hex"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

// summaryBytes is the longest summary of a scroll, before its ellipsis.
const summaryBytes = 32

// AppendSummary appends the line by which a table of contents shows a scroll:
// its first line, at most 32 bytes of it and never half a character, then
// "..." where anything was left out.
func AppendSummary(dst, scroll []byte) []byte {
	line := scroll
	if len(line) > summaryBytes {
		line = line[:summaryBytes]
		for len(line) > 0 && !utf8.RuneStart(scroll[len(line)]) {
			line = line[:len(line)-1]
		}
	}
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	dst = append(dst, line...)
	if len(line) < len(scroll) {
		dst = append(dst, "..."...)
	}
	return dst
}

// Checksum returns the XXH3 128-bit hash of text as 32 lower-case hex digits.
func Checksum(text []byte) string {
	sum := xxh3.Hash128(text).Bytes()
	return hex.EncodeToString(sum[:])
}

// Scroll is a text and its place.
type Scroll struct {
	At   Coordinate
	Text []byte
}

// AppendDocument appends the canonical document of scrolls, which must ascend:
// the fewest breaks that lead to each, then its text. Empty scrolls have no
// place in a document and are left out.
func AppendDocument(dst []byte, scrolls []Scroll) []byte {
	at := Origin
	for _, s := range scrolls {
		if len(s.Text) == 0 {
			continue
		}
		dst = AppendBreaks(dst, at, s.At)
		dst = append(dst, s.Text...)
		at = s.At
	}
	return dst
}

// Scrolls returns the scrolls of a document, in order, sharing its memory.
func Scrolls(text []byte) ([]Scroll, error) {
	var scrolls []Scroll
	err := Scan(text, func(at Coordinate, start, end int) {
		scrolls = append(scrolls, Scroll{At: at, Text: text[start:end:end]})
	})
	return scrolls, err
}
