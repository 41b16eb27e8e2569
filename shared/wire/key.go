package wire

import (
	"errors"
	"fmt"
	"strings"
)

// The headers of an idempotency key, as draft-ietf-httpapi-idempotency-key-header
// has it.
const (
	// HeaderClientKey is what a client sends it in. The edge never hands that on
	// as it came.
	HeaderClientKey = "Idempotency-Key"

	// HeaderKey carries it to the worker, as [QuoteKey] writes it.
	HeaderKey = "SQ-Idempotency-Key"

	// HeaderReplayed is "true" in the answer to a write that was made before by
	// another request with its key.
	HeaderReplayed = "SQ-Replayed"
)

// MaxKey is the length of an idempotency key at most, in bytes.
const MaxKey = 255

// ParseKey reads the lines of a header field that holds an idempotency key; none
// are no key. A key is 1 to [MaxKey] printable ASCII characters, in double quotes
// as a string of RFC 9651, or bare: then without spaces, quotes, commas and
// backslashes, which could be two fields that a proxy has joined. Both forms name
// the same key.
func ParseKey(lines []string) (string, error) {
	switch {
	case len(lines) == 0:
		return "", nil
	case len(lines) > 1:
		return "", errors.New("it is given twice")
	}
	key, quoted := strings.CutPrefix(lines[0], `"`)
	if quoted {
		var err error
		if key, err = unquoteKey(key); err != nil {
			return "", err
		}
	} else if i := strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`",\`, r) }); i >= 0 {
		return "", fmt.Errorf("its byte %d may not stand there: want visible ASCII characters, or a string in double quotes", i+1)
	}
	if len(key) == 0 || len(key) > MaxKey {
		return "", fmt.Errorf("it has %d characters: want 1 to %d", len(key), MaxKey)
	}
	return key, nil
}

// unquoteKey reads a string behind its opening quote.
func unquoteKey(s string) (string, error) {
	key := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"' && i == len(s)-1:
			return string(key), nil
		case c == '"':
			return "", errors.New("something follows its closing quote")
		case c == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			c = s[i]
		case c == '\\':
			return "", errors.New(`its backslash stands before neither " nor \`)
		case c < ' ' || c > '~':
			return "", fmt.Errorf("its byte %d is no printable ASCII character", i+2)
		}
		key = append(key, c)
	}
	return "", errors.New("its closing quote is missing")
}

// QuoteKey writes a key in quotes, the form that keeps every one of them.
func QuoteKey(key string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}
