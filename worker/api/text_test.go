package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// placed is a scroll as MustSplit finds it.
type placed struct{ coordinate, text string }

// MustSplit reads a document by splitting it dimension by dimension, which is
// slow and has nothing in common with the parser of the worker.
func MustSplit(t *testing.T, document string) []placed {
	t.Helper()
	var scrolls []placed
	var split func(text string, numbers []any)
	split = func(text string, numbers []any) {
		if len(numbers) == len(phext.Breaks) {
			if text != "" {
				scrolls = append(scrolls, placed{fmt.Sprintf("%d.%d.%d/%d.%d.%d/%d.%d.%d", numbers...), text})
			}
			return
		}
		for i, part := range strings.Split(text, phext.Breaks[len(numbers):len(numbers)+1]) {
			split(part, append(numbers[:len(numbers):len(numbers)], i+1))
		}
	}
	split(document, nil)
	return scrolls
}

// TestEveryCharacter takes every character of Unicode that may stand in a
// scroll through every operation, a plane at a time.
func TestEveryCharacter(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	for plane := range rune(17) {
		var b strings.Builder
		for r := plane << 16; r < (plane+1)<<16; r++ {
			if utf8.ValidRune(r) && (r > 0x7f || phext.IndexBreak([]byte{byte(r)}) < 0) {
				b.WriteRune(r)
			}
		}
		text := b.String()
		n := utf8.RuneCountInString(text)
		if want := 65536; plane > 0 && n != want || plane == 0 && n != want-2048-9 {
			t.Fatalf("plane %d has %d characters", plane, n)
		}

		// The document's name is of the plane as well.
		name := "p" + string(plane<<16|0xF600)
		document := "p=" + url.QueryEscape(name) + "&c=acme"
		first, second := document+"."+origin, document+".1.1.1/1.1.1/1.1.2"
		half := len(text) / 2
		for !utf8.RuneStart(text[half]) {
			half++
		}
		w.MustAnswer(t, "POST", "/insert?"+first, text[:half], fmt.Sprintf("Inserted %d bytes", half))
		w.MustAnswer(t, "POST", "/insert?"+first, text[half:], fmt.Sprintf("Inserted %d bytes", len(text)-half))
		w.MustAnswer(t, "POST", "/update?"+second, text, fmt.Sprintf("Updated %d bytes", len(text)))
		w.MustAnswer(t, "GET", "/select?"+first, "", text)
		w.MustAnswer(t, "GET", "/load?"+second, "", text)

		stored := text + "\x17" + text
		w.MustAnswer(t, "GET", "/get?"+document, "", stored)
		w.MustAnswer(t, "GET", "/load?"+document, "", "Loaded "+name+".phext")
		w.MustAnswer(t, "GET", "/download?"+document, "", stored)
		w.MustAnswer(t, "GET", "/checksum?"+document, "", phext.Checksum([]byte(stored)))
		w.MustAnswer(t, "GET", "/status?"+document, "", fmt.Sprintf("Hosting: %s.phext\nPhext Size: %d\nScrolls: 2", name, len(stored)))
		toc := w.MustGet(t, "/toc?"+document)
		if !utf8.ValidString(toc) || strings.Count(toc, "* 1.1.1/1.1.1/1.1.") != 2 {
			t.Errorf("plane %d: toc %s", plane, clip(toc))
		}
		var scrolls []struct{ Coord, Scroll string }
		if err := json.Unmarshal([]byte(w.MustGet(t, "/json-export?"+document)), &scrolls); err != nil {
			t.Fatalf("plane %d: json-export: %v", plane, err)
		}
		if len(scrolls) != 2 || scrolls[0].Scroll != text || scrolls[1].Scroll != text || scrolls[0].Coord != origin {
			t.Errorf("plane %d: json-export holds %d scrolls, not the two that were stored", plane, len(scrolls))
		}
		w.MustAnswer(t, "POST", "/delta?"+document, "", stored)
		w.MustAnswer(t, "POST", "/delta?"+document, origin+": "+phext.Checksum([]byte(text)), "\x17"+text)
		w.MustAnswer(t, "POST", "/where?"+document+"&algo=checksum", text,
			fmt.Sprintf("Calculated coordinate %v for input (algo=checksum, limit=100).", phext.WhereChecksum([]byte(text))))
		w.MustAnswer(t, "POST", "/delete?"+first, "", fmt.Sprintf("Removed %d bytes", len(text)))
		w.MustAnswer(t, "GET", "/get?"+document, "", "\x17"+text)
		w.MustAnswer(t, "POST", "/replace?"+document, stored, fmt.Sprintf("Replaced %s.phext: %d bytes", name, len(stored)))
		w.MustAnswer(t, "GET", "/get?"+document, "", stored)
		if list := w.MustGet(t, "/documents?c=acme"); !strings.HasPrefix(list, fmt.Sprintf("%s\t%d\t2\t", name, len(stored))) {
			t.Errorf("plane %d: documents %s", plane, clip(list))
		}
		w.MustAnswer(t, "POST", "/remove?"+document, "", fmt.Sprintf("Removed %s.phext: %d bytes", name, len(stored)))
	}
}

// TestCalendar keeps a diary: the year is the chapter, the month the section,
// the day the scroll. A number costs its value in breaks, so years are the
// coordinates on which servers fail.
func TestCalendar(t *testing.T) {
	dir := t.TempDir()
	w := MustServe(t, dir, testTenant)
	var diary []placed
	for day := time.Date(1981, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() <= 1990; day = day.AddDate(0, 0, 1) {
		diary = append(diary, placed{
			fmt.Sprintf("1.1.1/1.1.1/%d.%d.%d", day.Year(), day.Month(), day.Day()),
			day.Format("Monday, 2 January 2006\nnothing happened"),
		})
	}
	if len(diary) != 10*365+2 { // 1984 and 1988 are leap years
		t.Fatalf("ten years have %d days", len(diary))
	}
	const document = "p=diary&c=acme"
	check := func(when string) {
		t.Helper()
		var toc strings.Builder
		for _, day := range diary {
			fmt.Fprintf(&toc, "* %s: %s\n", day.coordinate, phext.AppendSummary(nil, []byte(day.text)))
		}
		if got := w.MustGet(t, "/toc?"+document); got != toc.String() {
			t.Errorf("%s: toc %s, want %s", when, clip(got), clip(toc.String()))
		}
		text := w.MustGet(t, "/get?"+document)
		got := MustSplit(t, text)
		if len(got) != len(diary) {
			t.Fatalf("%s: get holds %d scrolls, want %d", when, len(got), len(diary))
		}
		for i := range got {
			if got[i] != diary[i] {
				t.Fatalf("%s: get holds %q, want %q", when, got[i], diary[i])
			}
		}
		w.MustAnswer(t, "GET", "/status?"+document, "", fmt.Sprintf("Hosting: diary.phext\nPhext Size: %d\nScrolls: %d", len(text), len(diary)))
		w.MustAnswer(t, "GET", "/checksum?"+document, "", phext.Checksum([]byte(text)))
	}

	// Written out of order, as a diary is not, so that most writes land between others.
	for i := range diary {
		day := diary[i*1009%len(diary)]
		w.MustAnswer(t, "POST", "/insert?"+document+"."+day.coordinate, day.text, fmt.Sprintf("Inserted %d bytes", len(day.text)))
	}
	check("written")
	for _, day := range diary {
		w.MustAnswer(t, "GET", "/select?"+document+"."+day.coordinate, "", day.text)
	}

	reopen := func() {
		w.stop()
		w = MustServe(t, dir, testTenant)
	}
	reopen()
	check("reopened")

	for i := range diary {
		switch {
		case i%7 == 0:
			diary[i].text = "rewritten: " + diary[i].text
			w.MustAnswer(t, "POST", "/update?"+document+"."+diary[i].coordinate, diary[i].text, fmt.Sprintf("Updated %d bytes", len(diary[i].text)))
		case i%7 == 1:
			diary[i].text += "\nP.S."
			w.MustAnswer(t, "POST", "/insert?"+document+"."+diary[i].coordinate, "\nP.S.", "Inserted 5 bytes")
		case i%7 == 2:
			w.MustAnswer(t, "POST", "/delete?"+document+"."+diary[i].coordinate, "", fmt.Sprintf("Removed %d bytes", len(diary[i].text)))
			diary[i].text = ""
		}
	}
	kept := diary[:0]
	for _, day := range diary {
		if day.text != "" {
			kept = append(kept, day)
		}
	}
	diary = kept
	check("changed")
	reopen()
	check("changed and reopened")
	w.MustAnswer(t, "POST", "/delta?"+document, strings.Join(hashes(diary), "\n"), "")
	w.MustAnswer(t, "GET", "/load?"+document, "", "Loaded diary"+wire.DocumentExt)
	check("loaded")
}

// hashes returns the lines by which a client asks for a delta.
func hashes(scrolls []placed) (lines []string) {
	for _, s := range scrolls {
		lines = append(lines, s.coordinate+": "+phext.Checksum([]byte(s.text)))
	}
	return lines
}
