package wire

import (
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  string // of the error
	}{
		{"empty", []string{""}, "0 characters"},
		{"empty in quotes", []string{`""`}, "0 characters"},
		{"two lines", []string{"a", "a"}, "twice"},
		{"two lines that a proxy joined", []string{"a, a"}, "byte 2"},
		{"two without a space", []string{"a,a"}, "byte 2"},
		{"two strings joined", []string{`"a", "a"`}, "follows its closing quote"},
		{"parameter behind a string", []string{`"a";b=1`}, "follows its closing quote"},
		{"one quote", []string{`"`}, "closing quote is missing"},
		{"no closing quote", []string{`"a`}, "closing quote is missing"},
		{"escaped closing quote", []string{`"a\"`}, "closing quote is missing"},
		{"no opening quote", []string{`a"`}, "byte 2"},
		{"quote within a string", []string{`"a"b"`}, "follows its closing quote"},
		{"backslash before another character", []string{`"a\b"`}, "backslash"},
		{"bare backslash", []string{`a\b`}, "byte 2"},
		{"bare space", []string{"a b"}, "byte 2"},
		{"tab", []string{"a\tb"}, "byte 2"},
		{"tab in quotes", []string{"\"a\tb\""}, "byte 3"},
		{"NUL", []string{"\x00"}, "byte 1"},
		{"DEL", []string{"a\x7f"}, "byte 2"},
		{"é", []string{"é"}, "byte 1"},
		{"é in quotes", []string{`"é"`}, "byte 2"},
		{"invalid UTF-8", []string{"\xff"}, "byte 1"},
		{"byte sequence", []string{":YQ==:x\x01"}, "byte 8"},
		{"too long", []string{strings.Repeat("a", MaxKey+1)}, "256 characters"},
		{"too long in quotes", []string{`"` + strings.Repeat(`\"`, MaxKey+1) + `"`}, "256 characters"},
	} {
		if key, err := ParseKey(tt.lines); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseKey(%q) = %q, %v; want an error with %q", tt.name, tt.lines, key, err, tt.want)
		}
	}
	for _, tt := range []struct{ bare, quoted, want string }{
		{"a", `"a"`, "a"},
		{"8e03978e-40d5-43dd-bc93-6894a57f9324", `"8e03978e-40d5-43dd-bc93-6894a57f9324"`, "8e03978e-40d5-43dd-bc93-6894a57f9324"},
		{"!#$%&'()*+-./:;<=>?@[]^_`{|}~", "\"!#$%&'()*+-./:;<=>?@[]^_`{|}~\"", "!#$%&'()*+-./:;<=>?@[]^_`{|}~"},
		{strings.Repeat("z", MaxKey), `"` + strings.Repeat("z", MaxKey) + `"`, strings.Repeat("z", MaxKey)},
		{"", `" a, \"b\" \\ "`, ` a, "b" \ `},
	} {
		lines := []string{tt.bare, tt.quoted, QuoteKey(tt.want)}
		for _, line := range lines {
			if line == "" {
				continue
			}
			if key, err := ParseKey([]string{line}); key != tt.want || err != nil {
				t.Errorf("ParseKey(%q) = %q, %v; want %q", line, key, err, tt.want)
			}
		}
	}
	if key, err := ParseKey(nil); key != "" || err != nil {
		t.Errorf("without a header: %q, %v", key, err)
	}
}
