package phext

import (
	"bytes"
	"strings"
	"testing"
)

func TestIndexBreak(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, tt := range []struct {
		name, text string
		want       int
	}{
		{"empty", "", -1},
		{"plain", "plain text", -1},
		{"other control bytes", "\x00\x02\t\n\r\x0b\x0f\x10\x16\x1b\x7f", -1},
		{"first byte", "\x17", 0},
		{"after other control bytes", "a\tb\n\x1b\x18c", 5},
		{"beyond the first words", long + "\x01", 100},
		{"newline, then a break far on", "a\n" + long + "\x1f" + long, 102},
		{"bytes above 0x80 are text", strings.Repeat("\u0097\u0081日本🚀", 20) + "\x1a", 280},
	} {
		if got := IndexBreak([]byte(tt.text)); got != tt.want {
			t.Errorf("%s: IndexBreak = %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestIndexBreakEverywhere puts every byte value at every place around the
// 32-byte steps of the search.
func TestIndexBreakEverywhere(t *testing.T) {
	for _, fill := range []byte{' ', '\n', 'x', 0x7f, 0x80, 0xff} {
		text := bytes.Repeat([]byte{fill}, 70)
		for i := range text {
			for b := range 256 {
				text[i] = byte(b)
				want := bytes.IndexAny(text, Breaks)
				if got := IndexBreak(text); got != want {
					t.Fatalf("%#x at %d among %#x: IndexBreak = %d, want %d", b, i, fill, got, want)
				}
			}
			text[i] = fill
		}
	}
}

func TestAppendBreaks(t *testing.T) {
	for _, tt := range []struct {
		name, from, to, want string
	}{
		{"the same place", "2.1.1/1.1.1/1.1.5", "2.1.1/1.1.1/1.1.5", ""},
		{"an earlier scroll", "1.1.1/1.1.1/1.1.5", "1.1.1/1.1.1/1.1.4", ""},
		{"an earlier chapter", "1.1.1/1.1.1/2.1.1", "1.1.1/1.1.1/1.9.9", ""},
		{"next library", "1.9.9/9.9.9/9.9.9", "2.1.1/1.1.1/1.1.1", "\x01"},
		{"next shelf", "1.1.9/9.9.9/9.9.9", "1.2.1/1.1.1/1.1.1", "\x1f"},
		{"next series", "1.1.1/9.9.9/9.9.9", "1.1.2/1.1.1/1.1.1", "\x1e"},
		{"next collection", "1.1.1/1.9.9/9.9.9", "1.1.1/2.1.1/1.1.1", "\x1d"},
		{"next volume", "1.1.1/1.1.9/9.9.9", "1.1.1/1.2.1/1.1.1", "\x1c"},
		{"next book", "1.1.1/1.1.1/9.9.9", "1.1.1/1.1.2/1.1.1", "\x1a"},
		{"next chapter", "1.1.1/1.1.1/1.9.9", "1.1.1/1.1.1/2.1.1", "\x19"},
		{"next section", "1.1.1/1.1.1/1.1.9", "1.1.1/1.1.1/1.2.1", "\x18"},
		{"next scroll", "1.1.1/1.1.1/1.1.1", "1.1.1/1.1.1/1.1.2", "\x17"},
		{"finer numbers count from one", "1.1.1/1.1.1/1.1.8", "1.1.1/1.1.1/2.1.3", "\x19\x17\x17"},
		{"every dimension", "1.1.1/1.1.1/1.1.1", "2.3.2/2.2.2/2.2.3", "\x01\x1f\x1f\x1e\x1d\x1c\x1a\x19\x18\x17\x17"},
		{"a year as chapter", "1.1.1/1.1.1/1.1.1", "1.1.1/1.1.1/1981.2.1", strings.Repeat("\x19", 1980) + "\x18"},
		{"to the last scroll", "1.1.1/1.1.1/1.1.1", "1.1.1/1.1.1/1.1.65535", strings.Repeat("\x17", 65534)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, to := MustParse(t, tt.from), MustParse(t, tt.to)
			got := AppendBreaks([]byte("kept"), from, to)
			if string(got) != "kept"+tt.want {
				t.Errorf("AppendBreaks(%v, %v) = %q, want %q", from, to, got[4:], tt.want)
			}
			if n := CountBreaks(from, to); n != int64(len(tt.want)) {
				t.Errorf("CountBreaks(%v, %v) = %d, want %d", from, to, n, len(tt.want))
			}
		})
	}
}
