package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const form = "Content-Type: application/x-www-form-urlencoded"

// planes returns a text of each of the 17 planes of Unicode, with the edges of
// the plane and, in the first, what tends to go wrong.
func planes() []string {
	texts := []string{"a\tb\r\nc\x00\x02\x1B\x7F\u0080\u0085é\u07FF\u0800\u200B\u200D\u2028\u2029\u202Eاب\u0301日本\uD7FF\uE000\uFDD0\uFEFF\uFFFD\uFFFE\uFFFF"}
	for plane := rune(1); plane <= 16; plane++ {
		texts = append(texts, string([]rune{plane << 16, plane<<16 | 1, plane<<16 | 0xF680, plane<<16 | 0xFFFD, plane<<16 | 0xFFFE, plane<<16 | 0xFFFF}))
	}
	return texts
}

func TestTextOfEveryUnicodePlaneSurvivesEveryOperation(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	const key = "tok-alpha"
	for plane, text := range planes() {
		if !utf8.ValidString(text) || strings.ContainsAny(text, naiveBreaks) {
			t.Fatalf("the text of plane %d is no scroll", plane)
		}
		escaped := url.QueryEscape(text)
		for _, write := range []struct{ method, path, body, header string }{
			{"GET", "/update?p=u&c=%s&s=" + escaped, "", ""},
			{"GET", "/update?p=u&c=%s&text=" + escaped, "", ""},
			{"POST", "/update?p=u&c=%s&content=" + escaped, "", ""},
			{"POST", "/update?p=u&c=%s", text, ""},
			{"PUT", "/api/v2/update?p=u&c=%s", text, form}, // as curl -d claims
			{"POST", "/update", "p=u&c=%s&text=" + escaped, form},
			{"GET", "/insert?p=u&c=%s&s=" + escaped, "", ""},
			{"POST", "/insert?p=u&c=%s", text, "Content-Type: text/plain; charset=iso-8859-1"},
			{"POST", "/api/v2/insert", "text=" + escaped + "&c=%s&p=u", form},
		} {
			scroll := naiveScroll{[9]int{1, 1, 1, 1, 1, 1, 1, plane + 1, 1}, text}
			at := scroll.coord()
			e.Do(key, "DELETE", "/delete?p=u&c="+at, "")
			path, body := strings.Replace(write.path, "%s", at, 1), write.body
			if write.header == form && body != text {
				body = strings.Replace(body, "%s", at, 1)
			}
			verb := "Updated"
			if strings.Contains(path, "/insert") {
				verb = "Inserted"
			}
			var headers []string
			if write.header != "" {
				headers = []string{write.header}
			}
			got := e.Do(key, write.method, path, body, headers...)
			if want := fmt.Sprintf("%s %d bytes", verb, len(text)); got.Status != 200 || got.Body != want {
				t.Errorf("plane %d: %s %s: %d %q, want %q", plane, write.method, write.path, got.Status, got.Body, want)
			}
			e.Want(key, "GET", "/select?p=u&c="+at, "", 200, text)
		}
	}
	var scrolls []naiveScroll
	for plane, text := range planes() {
		scrolls = append(scrolls, naiveScroll{[9]int{1, 1, 1, 1, 1, 1, 1, plane + 1, 1}, text})
	}
	e.WantDocument(key, "u", scrolls)
	e.wantExport(key, "u", scrolls)
	e.wantDelta(key, "u", scrolls)
	for _, s := range scrolls {
		e.Want(key, "GET", "/load?p=u&c="+s.coord(), "", 200, s.text)
		if got := e.Do(key, "POST", "/where?algo=checksum&p=u", s.text); got.Status != 200 || !strings.HasPrefix(got.Body, "Calculated coordinate ") {
			t.Errorf("where of %q: %d %q", s.text, got.Status, got.Body)
		}
	}
	e.Want(key, "GET", "/load?p=u", "", 200, "Loaded u.phext")
	e.Quit()
	e.Boot()
	e.WantDocument(key, "u", scrolls)
	for _, s := range scrolls {
		e.Want(key, "DELETE", "/delete?p=u&c="+s.coord(), "", 200, fmt.Sprintf("Removed %d bytes", len(s.text)))
	}
	e.Want(key, "GET", "/get?p=u", "", 200, "")
}

// wantExport checks json-export with a JSON parser of its own.
func (e *Edge) wantExport(key, name string, scrolls []naiveScroll) {
	e.t.Helper()
	got := e.Do(key, "GET", "/json-export?p="+name, "")
	var list []struct{ Coord, Scroll string }
	if err := json.Unmarshal([]byte(got.Body), &list); err != nil || len(list) != len(scrolls) {
		e.t.Fatalf("json-export of %s has %d entries, want %d: %v", name, len(list), len(scrolls), err)
	}
	for i, s := range scrolls {
		if list[i].Coord != s.coord() || list[i].Scroll != s.text {
			e.t.Errorf("json-export: %q at %s, want %q at %s", list[i].Scroll, list[i].Coord, s.text, s.coord())
		}
	}
}

// wantDelta checks that delta answers exactly the scrolls that the client does
// not have.
func (e *Edge) wantDelta(key, name string, scrolls []naiveScroll) {
	e.t.Helper()
	var all, half string
	var missing []naiveScroll
	for i, s := range scrolls {
		line := s.coord() + ": " + naiveChecksum(s.text) + "\n"
		all += line
		if i%2 == 0 {
			half += line
		} else {
			missing = append(missing, s)
		}
	}
	e.Want(key, "POST", "/delta?p="+name, all, 200, "")
	e.Want(key, "POST", "/delta?p="+name, half, 200, naiveWrite(missing))
	e.Want(key, "POST", "/delta?p="+name, "", 200, naiveWrite(slices.Clone(scrolls)))
}

// TestDocumentNamesOfEveryUnicodePlane: a name travels in a query, a form and a
// path, and becomes a file's name.
func TestDocumentNamesOfEveryUnicodePlane(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	const key = "tok-alpha"
	names := []string{"été 日本 %2F+&=;#?", "e\u0301t\u00e9", "\uFEFFbom", "\u202Ertl"}
	names = append(names, planes()[1:]...)
	slices.Sort(names)
	for i, name := range names {
		text := fmt.Sprintf("text %d", i)
		segment := url.PathEscape(name)
		reply := e.Do(key, "PUT", "/documents/"+segment, text)
		if want := fmt.Sprintf("Replaced %s.phext: %d bytes", name, len(text)); reply.Status != 200 || reply.Body != want {
			t.Fatalf("PUT %q: %d %q, want %q", name, reply.Status, reply.Body, want)
		}
		e.Want(key, "GET", "/documents/"+segment, "", 200, text)
		e.Want(key, "GET", "/select?c=1.1.1/1.1.1/1.1.1&p="+url.QueryEscape(name), "", 200, text)
		got := e.Do(key, "POST", "/insert", "c=1.1.1/1.1.1/1.1.1&s=!&p="+url.QueryEscape(name), form)
		if got.Status != 200 {
			t.Errorf("insert into %q: %d %q", name, got.Status, got.Body)
		}
	}
	var listed []struct{ Name string }
	must(t, json.Unmarshal([]byte(e.Do(key, "GET", "/documents", "", "Accept: application/json").Body), &listed))
	var got []string
	for _, d := range listed {
		got = append(got, d.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, names) {
		t.Errorf("documents lists %q, want %q", got, names)
	}
	e.Quit()
	for i, name := range names {
		if got, want := e.mustFile("alpha", name+".phext"), fmt.Sprintf("text %d!", i); got != want {
			t.Errorf("the file of %q holds %q, want %q", name, got, want)
		}
	}
	e.Boot()
	for i, name := range names {
		e.Want(key, "GET", "/documents/"+url.PathEscape(name), "", 200, fmt.Sprintf("text %d!", i))
		e.Want(key, "DELETE", "/documents/"+url.PathEscape(name), "", 200, fmt.Sprintf("Removed %s.phext: %d bytes", name, len(fmt.Sprintf("text %d!", i))))
		e.Want(key, "GET", "/documents/"+url.PathEscape(name), "", 404, fmt.Sprintf("no document %q", name))
	}
	e.Want(key, "GET", "/documents", "", 200, "")
}

// TestSummariesEndOnAWholeCharacter: 32 bytes may end within a character.
func TestSummariesEndOnAWholeCharacter(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	var want string
	for i, c := range []string{"é", "日", "🚀"} {
		for pad := range len(c) + 1 {
			text := strings.Repeat("x", 32-pad) + c + "tail"
			at := naiveScroll{at: [9]int{1, 1, 1, 1, 1, 1, 1, i + 1, pad + 1}}.coord()
			e.Want("tok-alpha", "POST", "/update?p=s&c="+at, text, 200, fmt.Sprintf("Updated %d bytes", len(text)))
			kept := strings.Repeat("x", 32-pad)
			if pad == len(c) {
				kept += c
			}
			want += "* " + at + ": " + kept + "...\n"
		}
	}
	e.Want("tok-alpha", "GET", "/toc?p=s", "", 200, want)
}

// TestYearsOfDaysAreListedAndReadInFull has years as chapters, which the
// reference server folds into one.
func TestYearsOfDaysAreListedAndReadInFull(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	const key = "tok-alpha"
	first, last, want := 1988, 1989, 366+365
	if nightly {
		first, last, want = 1981, 1990, 10*365+2 // 1984 and 1988 are leap years
	}
	var days []naiveScroll
	for day := time.Date(first, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() <= last; day = day.AddDate(0, 0, 1) {
		days = append(days, naiveScroll{[9]int{1, 1, 1, 1, 1, 1, day.Year(), int(day.Month()), day.Day()}, day.Format("Monday, 2 January 2006 ☀\nslept well")})
	}
	if len(days) != want {
		t.Fatalf("%d days", len(days))
	}
	write := func(op string, list []naiveScroll) {
		t.Helper()
		each(t, list, func(s naiveScroll) error {
			got, err := e.Try(key, "POST", "/"+op+"?p=diary&c="+s.coord(), s.text)
			if err == nil && got.Status != 200 {
				err = fmt.Errorf("%s %s: %d %q", op, s.coord(), got.Status, got.Body)
			}
			return err
		})
	}
	write("insert", days)
	e.WantDocument(key, "diary", days)
	e.wantExport(key, "diary", days)

	// The firsts of the months change, all that is beyond the 28th goes.
	var firsts, ends, rest []naiveScroll
	for _, s := range days {
		switch {
		case s.at[8] == 1:
			s.text = "A new month."
			firsts = append(firsts, s)
		case s.at[8] > 28:
			ends = append(ends, s)
			continue
		}
		rest = append(rest, s)
	}
	write("update", firsts)
	write("delete", ends)
	e.WantDocument(key, "diary", rest)
	e.Quit()
	if e.mustFile("alpha", "diary.phext") != naiveWrite(rest) {
		t.Error("after the edge ended the file is not the document")
	}
	e.Boot()
	e.WantDocument(key, "diary", rest)
}
