package engine_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// reads are the questions about one document, with their answers.
var reads = []struct {
	op     string
	answer func(d *document) string
}{
	{"toc", func(d *document) string {
		var lines []byte
		for _, s := range d.sorted() {
			lines = phext.AppendSummary(fmt.Appendf(lines, "* %v: ", s.At), s.Text)
			lines = append(lines, '\n')
		}
		return string(lines)
	}},
	{"get", (*document).text},
	{"download", (*document).text},
	{"checksum", func(d *document) string { return phext.Checksum([]byte(d.text())) }},
	{"status", func(d *document) string {
		return fmt.Sprintf("Hosting: %s.phext\nPhext Size: %d\nScrolls: %d", d.name, len(d.text()), len(d.scrolls))
	}},
	{"json-export", nil},
	{"delta", nil},
	{"select", nil},
	{"select", nil},
	{"load", nil}, // of one scroll
}

func (m *model) read(d *document, i int) {
	m.t.Helper()
	op := reads[i].op
	d.touch(false)
	switch {
	case op == "download" && !d.exists():
		m.want(op, d.name, nil, "", http.StatusNotFound, "")
	case op == "json-export":
		m.export(d)
	case op == "delta":
		m.delta(d)
	case reads[i].answer == nil:
		at := engine.Near(m.r)
		if scrolls := d.sorted(); len(scrolls) > 0 && m.r.IntN(4) > 0 {
			at = scrolls[m.r.IntN(len(scrolls))].At
		}
		m.state(m.want(op, d.name, &at, "", http.StatusOK, d.scrolls[at]), d.scrolls[at])
	default:
		m.want(op, d.name, nil, "", http.StatusOK, reads[i].answer(d))
	}
}

func (m *model) export(d *document) {
	code, body, _ := m.ask("json-export", d.name, nil, "")
	type scroll struct{ Coord, Scroll string }
	var got, want []scroll
	for _, s := range d.sorted() {
		want = append(want, scroll{s.At.String(), string(s.Text)})
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK || !slices.Equal(got, want) {
		m.fatalf("json-export of %q: %d %.2000q, %v; want %q", d.name, code, body, err, want)
	}
}

// delta asks as a client that has some scrolls, has others otherwise, and has
// some that the document has not.
func (m *model) delta(d *document) {
	var lines []string
	differ := engine.Shadow{}
	for _, s := range d.sorted() {
		switch m.r.IntN(3) {
		case 0:
			lines = append(lines, fmt.Sprintf("%v: %s", s.At, phext.Checksum(s.Text)))
			continue
		case 1:
			lines = append(lines, fmt.Sprintf("%v: %s", s.At, phext.Checksum([]byte("other"))))
		}
		differ[s.At] = string(s.Text)
	}
	for range m.r.IntN(3) {
		if at := engine.Near(m.r); d.scrolls[at] == "" {
			lines = append(lines, fmt.Sprintf("%v: %s", at, phext.Checksum([]byte("gone"))))
			differ[at] = wire.MissingScroll
		}
	}
	m.r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	m.want("delta", d.name, nil, strings.Join(lines, "\n"), http.StatusOK, string(differ.Document()))
}

// whole asks about all documents at once.
func (m *model) whole() {
	m.t.Helper()
	var want []string
	stats := wire.Stats{Tenant: "acme"}
	for _, name := range slices.Sorted(slices.Values(m.names)) {
		if d := m.docs[name]; d.exists() {
			want = append(want, fmt.Sprintf("%s\t%d\t%d", name, len(d.text()), len(d.scrolls)))
			stats.Documents++
			stats.StorageBytes += int64(len(d.text()))
			stats.Scrolls += int64(len(d.scrolls))
		}
	}
	for _, d := range m.docs {
		d.placed = false
	}
	_, body, _ := m.ask("documents", "", nil, "")
	got := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	for i, line := range got {
		got[i] = line[:max(0, strings.LastIndexByte(line, '\t'))] // less the time
	}
	if body == "" {
		got = nil
	}
	if !slices.Equal(got, want) {
		m.fatalf("documents:\n%q, want\n%q", got, want)
	}
	_, body, _ = m.ask("stats", "", nil, "")
	var s wire.Stats
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Sequence < m.seq {
		m.fatalf("stats %q after sequence %d: %v", body, m.seq, err)
	}
	if stats.Sequence, stats.LogBytes = s.Sequence, s.LogBytes; s != stats {
		m.fatalf("stats %+v, want %+v", s, stats)
	}
}

// everything asks all there is to ask.
func (m *model) everything() {
	m.t.Helper()
	m.whole()
	for _, name := range m.names {
		for i := range reads {
			m.read(m.docs[name], i)
		}
	}
	m.whole()
}

// state checks what an answer about a scroll says beside the text.
func (m *model) state(h http.Header, text string) (seq uint64) {
	m.t.Helper()
	etag := ""
	if text != "" {
		etag = `"` + phext.Checksum([]byte(text)) + `"`
	}
	seq, err := strconv.ParseUint(h.Get("SQ-Seq"), 10, 64)
	if err != nil || h.Get("ETag") != etag {
		m.fatalf("ETag %s and SQ-Seq %q, want %s", h.Get("ETag"), h.Get("SQ-Seq"), etag)
	}
	return seq
}
