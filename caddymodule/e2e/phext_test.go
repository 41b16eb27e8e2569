package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"
)

// The tests' own reading and writing of phext, with nothing in common with the
// service but the definition.

// naiveScroll is a text at its place.
type naiveScroll struct {
	at   [9]int // coarsest dimension first
	text string
}

// naiveBreaks lead through the dimensions, coarsest first.
const naiveBreaks = "\x01\x1F\x1E\x1D\x1C\x1A\x19\x18\x17"

// coord returns the place as it is written in a query.
func (s naiveScroll) coord() string {
	n := make([]string, 9)
	for i, v := range s.at {
		n[i] = strconv.Itoa(v)
	}
	return strings.Join(n[:3], ".") + "/" + strings.Join(n[3:6], ".") + "/" + strings.Join(n[6:], ".")
}

// naiveParse reads a document byte by byte.
func naiveParse(text string) []naiveScroll {
	at := [9]int{1, 1, 1, 1, 1, 1, 1, 1, 1}
	var scrolls []naiveScroll
	var b []byte
	flush := func() {
		if len(b) > 0 {
			scrolls = append(scrolls, naiveScroll{at, string(b)})
			b = nil
		}
	}
	for i := 0; i < len(text); i++ {
		d := strings.IndexByte(naiveBreaks, text[i])
		if d < 0 {
			b = append(b, text[i])
			continue
		}
		flush()
		at[d]++
		for finer := d + 1; finer < 9; finer++ {
			at[finer] = 1
		}
	}
	flush()
	return scrolls
}

// naiveWrite writes scrolls, which it sorts, with the fewest breaks.
func naiveWrite(scrolls []naiveScroll) string {
	slices.SortFunc(scrolls, func(a, b naiveScroll) int { return slices.Compare(a.at[:], b.at[:]) })
	at := [9]int{1, 1, 1, 1, 1, 1, 1, 1, 1}
	var out bytes.Buffer
	for _, s := range scrolls {
		moved := false
		for d := range at {
			from := at[d]
			if moved {
				from = 1
			}
			out.WriteString(strings.Repeat(naiveBreaks[d:d+1], s.at[d]-from))
			moved = moved || s.at[d] != at[d]
		}
		at = s.at
		out.WriteString(s.text)
	}
	return out.String()
}

// naiveChecksum is the checksum of a text.
func naiveChecksum(text string) string {
	sum := xxh3.HashString128(text)
	return fmt.Sprintf("%016x%016x", sum.Hi, sum.Lo)
}

// WantDocument checks that every way to read a document whole or in parts
// agrees with scrolls.
func (e *Edge) WantDocument(key, name string, scrolls []naiveScroll) {
	e.t.Helper()
	text := naiveWrite(scrolls)
	e.Want(key, "GET", "/get?p="+name, "", 200, text)
	e.Want(key, "GET", "/documents/"+name, "", 200, text)
	e.Want(key, "GET", "/checksum?p="+name, "", 200, naiveChecksum(text))
	e.Want(key, "GET", "/status?p="+name, "", 200, fmt.Sprintf("Hosting: %s.phext\nPhext Size: %d\nScrolls: %d", name, len(text), len(scrolls)))
	lines := strings.SplitAfter(e.Do(key, "GET", "/toc?p="+name, "").Body, "\n")
	if len(lines) != len(scrolls)+1 || lines[len(scrolls)] != "" {
		e.t.Fatalf("toc of %s has %d lines, want %d", name, len(lines)-1, len(scrolls))
	}
	for i, s := range scrolls {
		if want := "* " + s.coord() + ": " + naiveSummary(s.text) + "\n"; lines[i] != want {
			e.t.Fatalf("line %d of toc is %q, want %q", i, lines[i], want)
		}
	}
	e.wantScrolls(key, name, scrolls)
}

// naiveSummary is a scroll's first line, at most 32 bytes of it in whole
// characters, and "..." where that is not all.
func naiveSummary(text string) string {
	summary, _, cut := strings.Cut(text, "\n")
	if len(summary) > 32 {
		cut = true
		end := 0
		for i, r := range summary {
			if next := i + len(string(r)); next <= 32 {
				end = next
			}
		}
		summary = summary[:end]
	}
	if cut {
		summary += "..."
	}
	return summary
}

// wantScrolls selects every scroll, a few at a time.
func (e *Edge) wantScrolls(key, name string, scrolls []naiveScroll) {
	e.t.Helper()
	each(e.t, scrolls, func(s naiveScroll) error {
		got, err := e.Try(key, "GET", "/select?p="+name+"&c="+s.coord(), "")
		if err == nil && (got.Status != 200 || got.Body != s.text) {
			err = fmt.Errorf("select %s: %d %q, want %q", s.coord(), got.Status, clip(got.Body), clip(s.text))
		}
		return err
	})
}

// each calls do for every item, sixteen at a time.
func each[T any](t *testing.T, items []T, do func(T) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(16)
	for _, item := range items {
		group.Go(func() error { return do(item) })
	}
	must(t, group.Wait())
}

// mustFile returns a file of a tenant's data directory.
func (e *Edge) mustFile(tenant, name string) string {
	e.t.Helper()
	data, err := os.ReadFile(filepath.Join(e.DataRoot(), tenant, name))
	must(e.t, err)
	return string(data)
}
