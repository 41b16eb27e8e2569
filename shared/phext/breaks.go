package phext

import "bytes"

// Breaks are the nine break bytes, coarsest dimension first, in the order of
// the numbers of a [Coordinate]: library 0x01, shelf 0x1F, series 0x1E,
// collection 0x1D, volume 0x1C, book 0x1A, chapter 0x19, section 0x18,
// scroll 0x17.
const Breaks = "\x01\x1f\x1e\x1d\x1c\x1a\x19\x18\x17"

// dimensionOf maps a byte to its dimension plus one; 0 for ordinary text.
var dimensionOf = func() (t [256]uint8) {
	for d := range len(Breaks) {
		t[Breaks[d]] = uint8(d + 1)
	}
	return t
}()

// IndexBreak returns the position of the first break byte in text, or -1.
func IndexBreak(text []byte) int {
	for at := 0; ; {
		i := indexControl(text[at:])
		if i < 0 {
			return -1
		}
		if dimensionOf[text[at+i]] != 0 {
			return at + i
		}
		at += i + 1
	}
}

// AppendBreaks appends the fewest break bytes that lead from one coordinate to
// a later one. It appends nothing where to is not after from.
func AppendBreaks(dst []byte, from, to Coordinate) []byte {
	for d := range Dimensions {
		if from[d] == to[d] {
			continue
		}
		if to[d] < from[d] {
			return dst
		}
		dst = appendRepeat(dst, Breaks[d], int(to[d]-from[d]))
		for f := d + 1; f < Dimensions; f++ {
			dst = appendRepeat(dst, Breaks[f], int(to[f]-1))
		}
		return dst
	}
	return dst
}

// CountBreaks returns how many bytes [AppendBreaks] would append.
func CountBreaks(from, to Coordinate) int64 {
	for d := range Dimensions {
		if from[d] == to[d] {
			continue
		}
		if to[d] < from[d] {
			return 0
		}
		n := int64(to[d] - from[d])
		for f := d + 1; f < Dimensions; f++ {
			n += int64(to[f] - 1)
		}
		return n
	}
	return 0
}

func appendRepeat(dst []byte, b byte, n int) []byte {
	if n < 16 {
		for range n {
			dst = append(dst, b)
		}
		return dst
	}
	return append(dst, bytes.Repeat([]byte{b}, n)...)
}
