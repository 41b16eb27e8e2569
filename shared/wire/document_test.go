package wire

import (
	"strings"
	"testing"
)

func TestCheckDocument(t *testing.T) {
	for _, tt := range []struct {
		name, document, want string // want "" accepts
	}{
		{"empty", "", "is empty"},
		{"201 bytes", strings.Repeat("x", 201), "has 201 bytes: at most 200"},
		{"67 characters of 3 bytes", strings.Repeat("日", 67), "has 201 bytes"},
		{"invalid UTF-8", "caf\xe9", "not valid UTF-8"},
		{"overlong slash", "a\xc0\xafb", "not valid UTF-8"},
		{"dot", ".", "begins with a dot"},
		{"dot dot", "..", "begins with a dot"},
		{"hidden", ".sq", "begins with a dot"},
		{"trash", ".trash", "begins with a dot"},
		{"parent", "../beta/notes", "begins with a dot"},
		{"parent inside", "a/../../beta", "two dots"},
		{"two dots inside", "a..b", "two dots"},
		{"absolute", "/etc/passwd", "slash"},
		{"folder", "a/b", "slash"},
		{"backslash", `a\b`, "backslash"},
		{"NUL", "notes\x00.txt", "control character"},
		{"newline", "a\nb", "control character"},
		{"tab", "a\tb", "control character"},
		{"break", "a\x17b", "control character"},
		{"escape", "\x1b[2J", "control character"},
		{"DEL", "a\x7f", "control character"},
		{"C1", "a\u0085b", "control character"},

		{"plain", "notes", ""},
		{"the default", DefaultDocument, ""},
		{"one byte", "a", ""},
		{"200 bytes", strings.Repeat("x", 200), ""},
		{"space", "the odyssey", ""},
		{"not ASCII", "日記", ""},
		{"outside the first plane", "🚀", ""},
		{"single dots", "v1.2.phext", ""},
		{"dot at the end", "a.", ""},
		{"colon, quotes, percent, plus", `a:b"c'%2e%2e+<html>`, ""},
		{"dash first", "-rf", ""},
	} {
		err := CheckDocument(tt.document)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: CheckDocument(%q): %v", tt.name, tt.document, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: CheckDocument(%q): %v, want an error with %q", tt.name, tt.document, err, tt.want)
		case err != nil && len(tt.document) > 2 && strings.Contains(err.Error(), tt.document):
			t.Errorf("%s: the error repeats the client's bytes: %q", tt.name, err)
		}
	}
}
