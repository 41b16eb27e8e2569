package wire

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadAssignmentInvalid(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", "EOF"},
		{"an empty line", "\n", "not an array"},
		{"no newline", `["-tenant"]`, "cut short"},
		{"an object", `{"tenant":"acme"}` + "\n", "not an array"},
		{"numbers", "[1]\n", "not an array"},
		{"two arrays", `["a"]["b"]` + "\n", "not an array"},
		{"two lines", `["a"]` + "\n" + `["b"]` + "\n", "more than one line"},
		{"too long", `["` + strings.Repeat("a", MaxAssignment) + `"]` + "\n", "longer than"},
	} {
		for how, r := range map[string]io.Reader{
			"at once":      strings.NewReader(tt.in),
			"byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
		} {
			if how != "at once" && tt.name == "two lines" {
				continue // who reads slowly never sees the second
			}
			args, err := ReadAssignment(r)
			if err == nil || args != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: %q, %v, want an error with %q", tt.name, how, args, err, tt.want)
			}
			if (err == io.EOF) != (tt.in == "") {
				t.Errorf("%s, %s: the error is %v", tt.name, how, err)
			}
		}
	}
}

func TestAssignment(t *testing.T) {
	if line, err := Assignment([]string{strings.Repeat("\x01", MaxAssignment/6)}); err == nil {
		t.Errorf("an assignment of %d bytes is none that can be read", len(line))
	}
	for _, args := range [][]string{
		{"-tenant", "acme", "-dir", "/data/acme"},
		{"", "a\nb", "\x00", `"`, "日記", "</script>"},
		{"-dir", "/" + strings.Repeat("\x01", 4095)}, // the longest path, at its worst
	} {
		line, err := Assignment(args)
		if err != nil || strings.Count(string(line), "\n") != 1 {
			t.Errorf("Assignment(%.40q) = %.40q, %v", args, line, err)
		}
		for how, r := range map[string]io.Reader{
			"at once":      strings.NewReader(string(line)),
			"byte by byte": iotest.OneByteReader(strings.NewReader(string(line))),
		} {
			if got, err := ReadAssignment(r); err != nil || !slices.Equal(got, args) {
				t.Errorf("%s, %.40q comes back as %.40q, %v", how, args, got, err)
			}
		}
	}
}
