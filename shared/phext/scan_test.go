package phext

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestScanOverflow(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		offset     int64
		reason     string
	}{
		{"scroll", "abc" + strings.Repeat("\x17", 65535), 3 + 65534, "a scroll number beyond 65535"},
		{"chapter, not the last byte", strings.Repeat("\x19", 65535) + "rest", 65534, "a chapter number beyond 65535"},
		{"library", "a\x17" + strings.Repeat("\x01", 70000), 2 + 65534, "a library number beyond 65535"},
		{"reset by a coarser break, then over", strings.Repeat("\x17", 65000) + "\x18" + strings.Repeat("\x17", 65535), 65001 + 65534, "a scroll number beyond 65535"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Scan([]byte(tt.text), func(Coordinate, int, int) {})
			var bad *TextError
			if !errors.As(err, &bad) {
				t.Fatalf("Scan: %v, want a *TextError", err)
			}
			if bad.Offset != tt.offset || bad.Reason != tt.reason {
				t.Errorf("Scan: %q at %d, want %q at %d", bad.Reason, bad.Offset, tt.reason, tt.offset)
			}
			if _, err := Scrolls([]byte(tt.text)); err == nil {
				t.Error("Scrolls accepts what Scan refuses")
			}
		})
	}
}

func TestValidateInvalid(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		offset     int64
	}{
		{"lone continuation byte", "\x80", 0},
		{"cut character at the end", "abc\xe6\x97", 3},
		{"overlong slash", "ab\xc0\xaf", 2},
		{"surrogate", "日\xed\xa0\x80", 3},
		{"beyond U+10FFFF", "\xf4\x90\x80\x80", 0},
		{"0xFF after U+FFFD itself", "\uFFFDx\xff", 4},
		{"after a break", "one\x17tw\xfeo", 6},
	} {
		err := Validate([]byte(tt.text))
		var bad *TextError
		if !errors.As(err, &bad) || bad.Offset != tt.offset {
			t.Errorf("%s: Validate: %v, want offset %d", tt.name, err, tt.offset)
		}
	}
	for _, text := range []string{"", "plain", "\x00\x01\x17", "\uFFFD", "é日🚀\U0010FFFF"} {
		if err := Validate([]byte(text)); err != nil {
			t.Errorf("Validate(%q): %v", text, err)
		}
	}
}

func TestScan(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string // "coordinate text"
	}{
		{"empty", "", nil},
		{"one scroll", "abc", []string{"1.1.1/1.1.1/1.1.1 abc"}},
		{"only breaks", "\x17\x18\x19\x01\x17\x17", nil},
		{"one scroll per dimension", "a\x17b\x18c\x19d\x1ae\x1cf\x1dg\x1eh\x1fi\x01j", []string{
			"1.1.1/1.1.1/1.1.1 a", "1.1.1/1.1.1/1.1.2 b", "1.1.1/1.1.1/1.2.1 c", "1.1.1/1.1.1/2.1.1 d",
			"1.1.1/1.1.2/1.1.1 e", "1.1.1/1.2.1/1.1.1 f", "1.1.1/2.1.1/1.1.1 g", "1.1.2/1.1.1/1.1.1 h",
			"1.2.1/1.1.1/1.1.1 i", "2.1.1/1.1.1/1.1.1 j"}},
		{"redundant breaks", "a\x17\x17\x17\x18\x17b", []string{"1.1.1/1.1.1/1.1.1 a", "1.1.1/1.1.1/1.2.2 b"}},
		{"trailing breaks", "a\x19\x19", []string{"1.1.1/1.1.1/1.1.1 a"}},
		{"other control bytes are text", "a\tb\r\n\x1b[0m\x00\x17c", []string{"1.1.1/1.1.1/1.1.1 a\tb\r\n\x1b[0m\x00", "1.1.1/1.1.1/1.1.2 c"}},
		{"a space is text", "\x17 \x17", []string{"1.1.1/1.1.1/1.1.2  "}},
		{"largest number", strings.Repeat("\x17", 65534) + "z", []string{"1.1.1/1.1.1/1.1.65535 z"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			if err := Scan([]byte(tt.text), func(at Coordinate, start, end int) {
				got = append(got, at.String()+" "+tt.text[start:end])
			}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("Scan = %q, want %q", got, tt.want)
			}
		})
	}
}

// checkDocument compares Scan with the naive parser and takes text through the
// canonical form and back.
func checkDocument(t *testing.T, text []byte) {
	t.Helper()
	want, overflow := naiveParse(string(text))
	var got []naiveScroll
	err := Scan(text, func(at Coordinate, start, end int) {
		got = append(got, naiveScroll{numbers(at), string(text[start:end])})
	})
	var bad *TextError
	switch {
	case overflow < 0 && err != nil:
		t.Fatalf("Scan(%q): %v", text, err)
	case overflow >= 0 && (!errors.As(err, &bad) || bad.Offset != int64(overflow)):
		t.Fatalf("Scan(%q): %v, want an error at byte %d", text, err, overflow)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Scan(%q) = %v, want %v", text, got, want)
	}
	if err != nil {
		return
	}

	scrolls, err := Scrolls(text)
	if err != nil {
		t.Fatalf("Scrolls: %v", err)
	}
	canonical := AppendDocument(nil, scrolls)
	if len(canonical) > len(text) {
		t.Fatalf("canonical form of %q is longer: %q", text, canonical)
	}
	size, at := int64(0), Origin
	for _, s := range scrolls {
		size += CountBreaks(at, s.At) + int64(len(s.Text))
		at = s.At
	}
	if size != int64(len(canonical)) {
		t.Fatalf("canonical form of %q has %d bytes, counted %d", text, len(canonical), size)
	}
	if again, _ := naiveParse(string(canonical)); !slices.Equal(again, want) {
		t.Fatalf("canonical form %q of %q holds %v, want %v", canonical, text, again, want)
	}
	scrolls, err = Scrolls(canonical)
	if err != nil {
		t.Fatalf("Scrolls of the canonical form: %v", err)
	}
	if again := AppendDocument(nil, scrolls); !bytes.Equal(again, canonical) {
		t.Fatalf("canonical form %q of %q is not final: %q", canonical, text, again)
	}
}

// checkText compares the searches in a text with their naive forms.
func checkText(t *testing.T, text []byte) {
	t.Helper()
	if got, want := IndexBreak(text), bytes.IndexAny(text, Breaks); got != want {
		t.Fatalf("IndexBreak(%q) = %d, want %d", text, got, want)
	}
	want := -1
	for i, r := range string(text) {
		if r == '\uFFFD' && !bytes.HasPrefix(text[i:], []byte("\uFFFD")) {
			want = i
			break
		}
	}
	got := -1
	var bad *TextError
	if err := Validate(text); errors.As(err, &bad) {
		got = int(bad.Offset)
	}
	if got != want {
		t.Fatalf("Validate(%q) at %d, want %d", text, got, want)
	}
}

// TestScanRandom draws documents from the bytes where the parser decides.
func TestScanRandom(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	alphabet := []byte(Breaks + "\x17\x17\x18\x00\x02\x16\x1b \n\tabc\x7f\x80\xff\xe6\x97\xa5")
	for range 3000 {
		text := make([]byte, rng.IntN(200))
		for i := range text {
			text[i] = 'x'
			if rng.IntN(3) == 0 {
				text[i] = alphabet[rng.IntN(len(alphabet))]
			}
		}
		checkDocument(t, text)
		checkText(t, text)
	}
}

func FuzzDocument(f *testing.F) {
	for _, s := range []string{
		"", "abc", "a\x17b\x18c\x19d\x1ae\x1cf\x1dg\x1eh\x1fi\x01j", "\x17\x17\x18\x17z", "a\x19\x19",
		"a\tb\r\n\x1b[0m\x00\x17c", "日本\x17🚀\x01\xff\xfe", strings.Repeat("x", 64) + "\x17" + strings.Repeat("é", 40),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		checkDocument(t, text)
		checkText(t, text)
	})
}
