package phext

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppendSummary(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		name, scroll, want string
	}{
		// Where the reference server's answer is recorded, it is the expectation.
		{"31 bytes", x(31), x(31)},
		{"32 bytes", x(32), x(32)},
		{"33 bytes", x(33), x(32) + "..."},
		{"newline at 5", "hello\nworld", "hello..."},
		{"leading newline", "\nx", "..."},
		{"trailing newline", "abc\n", "abc..."},
		{"32 bytes, then newline", x(32) + "\n", x(32) + "..."},
		{"CRLF", "ab\r\ncd", "ab\r..."},
		{"tab", "a\tb", "a\tb"},
		{"é ends at byte 32", x(30) + "étail", x(30) + "é..."},
		{"not ASCII, short", "héllo ☃ 日本", "héllo ☃ 日本"},
		{"backslash", `semi line ; semi back\slash amp two`, `semi line ; semi back\slash amp ...`},

		// The reference server fails where a character straddles byte 32.
		{"é straddles byte 32", x(31) + "étail", x(31) + "..."},
		{"é straddles the end of 33 bytes", x(31) + "é", x(31) + "..."},
		{"日 from byte 31", x(30) + "日", x(30) + "..."},
		{"日 ends at byte 32", x(29) + "日", x(29) + "日"},
		{"🚀 from byte 29", x(29) + "🚀", x(29) + "..."},
		{"🚀 from byte 28", x(28) + "🚀🚀", x(28) + "🚀..."},
		{"a line of rockets", strings.Repeat("🚀", 9), strings.Repeat("🚀", 8) + "..."},
		{"newline at 31", x(31) + "\nx", x(31) + "..."},
		{"newline at 32 of 33", x(32) + "\nx", x(32) + "..."},
		{"empty", "", ""},
		{"only a newline", "\n", "..."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendSummary([]byte("* "), []byte(tt.scroll))); got != "* "+tt.want {
				t.Errorf("AppendSummary(%q) = %q, want %q", tt.scroll, got[2:], tt.want)
			}
		})
	}
}

func TestChecksum(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "99aa06d3014798d86001c324468d497f"}, // of the XXH3 test vectors
		// Recorded from the reference server.
		{"text1", "e9bb464ec49236864398c6a2943e377e"},
		{"text2", "317537d193ff839765c128d657247205"},
		{"text3", "b7c84afae5d2716f3f0b03313f1a27e5"},
		{"hello world!\nline two\x17second, by POST\x17q", "19dd43012b203ba60cf3eb7616914c57"},
		{strings.Repeat("0123456789abcdef", 65536), "0a933e9eb5e467a4bcb1f38add8340bb"},
	} {
		if got := Checksum([]byte(tt.text)); got != tt.want {
			t.Errorf("Checksum(%.20q) = %s, want %s", tt.text, got, tt.want)
		}
	}
}

func TestAppendDocument(t *testing.T) {
	scrolls := []Scroll{
		{Origin, nil},
		{MustParse(t, "1.1.1/1.1.1/1.1.2"), []byte("scroll2")},
		{MustParse(t, "1.1.1/1.1.1/1.1.4"), []byte{}},
		{MustParse(t, "1.1.1/1.1.1/1.1.10"), []byte("scroll10")},
		{MustParse(t, "1.1.1/1.1.1/1.2.3"), []byte("s1.2.3")},
		{MustParse(t, "2.1.1/1.1.1/1.1.1"), []byte("lib2")},
		{MustParse(t, "3.1.1/1.1.1/1.1.1"), nil},
	}
	const want = "kept\x17scroll2\x17\x17\x17\x17\x17\x17\x17\x17scroll10\x18\x17\x17s1.2.3\x01lib2"
	if got := AppendDocument([]byte("kept"), scrolls); string(got) != want {
		t.Errorf("AppendDocument = %q, want %q", got, want)
	}
	if got := AppendDocument(nil, nil); len(got) != 0 {
		t.Errorf("AppendDocument of nothing = %q", got)
	}
}

func TestScrollsCannotGrowIntoTheNext(t *testing.T) {
	text := []byte("one\x17two")
	scrolls, err := Scrolls(text)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(scrolls[0].Text, "XXXX"...)
	if string(text) != "one\x17two" {
		t.Errorf("an append to the first scroll wrote into the document: %q", text)
	}
}

// TestOdyssey takes a real book through every function.
func TestOdyssey(t *testing.T) {
	text := MustRead(t, "the-odyssey.phext")
	if got, want := Checksum(text), "9dd0ca3402f6f9e6ee5ecdee786664f9"; got != want {
		t.Errorf("checksum %s, want %s", got, want)
	}
	if err := Validate(text); err != nil {
		t.Errorf("Validate: %v", err)
	}
	scrolls, err := Scrolls(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(scrolls) != 52 {
		t.Errorf("%d scrolls, want 52", len(scrolls))
	}
	if again := AppendDocument(nil, scrolls); !bytes.Equal(again, text) {
		t.Errorf("AppendDocument(Scrolls(text)) differs from the %d bytes of the file: %d bytes", len(text), len(again))
	}
	checkDocument(t, text)
	for _, s := range scrolls {
		if IndexBreak(s.Text) >= 0 {
			t.Errorf("scroll %v holds a break", s.At)
		}
		line := AppendSummary(nil, s.Text)
		if !utf8.Valid(line) || len(line) > 32+3 || bytes.IndexByte(line, '\n') >= 0 {
			t.Errorf("scroll %v has the summary %q", s.At, line)
		}
		if rest, cut := bytes.CutSuffix(line, []byte("...")); cut && !bytes.HasPrefix(s.Text, rest) {
			t.Errorf("scroll %v does not begin with its summary %q", s.At, line)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	const total = 16 << 20
	for _, size := range []struct {
		name  string
		bytes int
	}{{"60-byte scrolls", 60}, {"500-byte scrolls", 500}} {
		text := bytes.Repeat([]byte(strings.Repeat("x", size.bytes)+"\x17"), 1000)
		text[len(text)-1] = '\x18'
		text = bytes.Repeat(text, total/len(text))
		b.Run(size.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				n := 0
				if err := Scan(text, func(Coordinate, int, int) { n++ }); err != nil || n == 0 {
					b.Fatal(n, err)
				}
			}
		})
	}
	b.Run("copy", func(b *testing.B) {
		src, dst := bytes.Repeat([]byte("x"), total), make([]byte, total)
		b.SetBytes(total)
		for b.Loop() {
			copy(dst, src)
		}
	})
}
