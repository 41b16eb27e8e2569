package phext

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// TextError says that a document's bytes are not a phext this project can
// hold, and where: invalid UTF-8, or a break that leads beyond [Max].
type TextError struct {
	Offset int64  // of the first bad byte, counted from 0
	Reason string // in words, without the offset
}

func (e *TextError) Error() string {
	return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset)
}

// Scan calls scroll for every scroll of text that is not empty, in order, with
// its place and its byte range text[start:end]. Coordinates ascend strictly,
// since a break only ever leads forward. It stops with a *[TextError] at a
// break that leads beyond [Max]; it does not check UTF-8 (see [Validate]).
func Scan(text []byte, scroll func(at Coordinate, start, end int)) error {
	return ScanFrom(text, Origin, func(at Coordinate, start, end int) bool {
		scroll(at, start, end)
		return true
	})
}

// ScanFrom is [Scan] for a part of a document that begins at the place at, or
// right after the scroll there. It ends early when scroll returns false.
func ScanFrom(text []byte, at Coordinate, scroll func(at Coordinate, start, end int) bool) error {
	start := 0
	for pos := 0; ; pos++ {
		i := indexControl(text[pos:])
		if i < 0 {
			break
		}
		pos += i
		d := dimensionOf[text[pos]]
		if d == 0 {
			continue
		}
		if pos > start && !scroll(at, start, pos) {
			return nil
		}
		start = pos + 1
		if at[d-1] == Max {
			return &TextError{Offset: int64(pos), Reason: "a " + dimensionNames[d-1] + " number beyond 65535"}
		}
		at[d-1]++
		for f := int(d); f < Dimensions; f++ {
			at[f] = 1
		}
	}
	if len(text) > start {
		scroll(at, start, len(text))
	}
	return nil
}

// Validate checks that text is UTF-8; the error is a *[TextError].
func Validate(text []byte) error {
	if utf8.Valid(text) {
		return nil
	}
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n <= 1 {
			return &TextError{Offset: int64(i), Reason: "invalid UTF-8"}
		}
		i += n
	}
	return nil
}

// indexControl returns the position of the first byte below 0x20, or -1.
//
// Text is mostly free of control bytes, so 32 bytes are tested at a time with
// word arithmetic: for each byte b, (b - 0x20) &^ b has its top bit set exactly
// where b < 0x20, apart from borrows out of a lower byte that is itself a hit,
// which the byte loop afterwards sorts out.
func indexControl(text []byte) int {
	const (
		low  = 0x2020202020202020
		high = 0x8080808080808080
	)
	i := 0
	for ; i+32 <= len(text); i += 32 {
		b := text[i : i+32 : i+32]
		w0 := binary.LittleEndian.Uint64(b)
		w1 := binary.LittleEndian.Uint64(b[8:])
		w2 := binary.LittleEndian.Uint64(b[16:])
		w3 := binary.LittleEndian.Uint64(b[24:])
		if ((w0-low)&^w0|(w1-low)&^w1|(w2-low)&^w2|(w3-low)&^w3)&high != 0 {
			break
		}
	}
	for ; i < len(text); i++ {
		if text[i] < 0x20 {
			return i
		}
	}
	return -1
}
