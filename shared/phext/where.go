package phext

// The two ways to infer a coordinate from a text are the reference server's,
// kept so that a client finds its text at the place it always did. Where the
// reference can compute a zero, which is no place, the number is one here.

// WhereChecksum derives a coordinate from the text's checksum: each pair of its
// first 18 hex digits, read as two ASCII bytes, modulo 999.
func WhereChecksum(text []byte) Coordinate {
	digits := Checksum(text)
	var c Coordinate
	for d := range c {
		c[d] = (uint16(digits[2*d])<<8 | uint16(digits[2*d+1])) % 999
	}
	return c.atLeastOne()
}

// WhereXOR folds the places of the text's own scrolls of at least limit bytes
// into one coordinate by exclusive or, starting from [Origin]. A text without
// breaks is one scroll at the origin.
func WhereXOR(text []byte, limit int) (Coordinate, error) {
	c := Origin
	err := Scan(text, func(at Coordinate, start, end int) {
		if end-start < limit {
			return
		}
		for d := range c {
			c[d] ^= at[d]
		}
	})
	if err != nil {
		return Coordinate{}, err
	}
	return c.atLeastOne(), nil
}

func (c Coordinate) atLeastOne() Coordinate {
	for d := range c {
		c[d] = max(c[d], 1)
	}
	return c
}
