package engine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/api"
	"github.com/sqedge/sqedge/worker/engine"
)

// TestModel sends random requests to many documents, with restarts, crashes,
// checkpoints, reloads and hand edits between them, and wants every answer to be
// what a plain map gives. SQ_SEED repeats one run.
func TestModel(t *testing.T) {
	runs, operations := 10, 5_000
	if os.Getenv("SQ_TEST") == "nightly" {
		runs, operations = 100, 10_000
	}
	if testing.Short() {
		operations /= 10
	}
	first := uint64(time.Now().UnixNano())
	if s := os.Getenv("SQ_SEED"); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SQ_SEED: %v", err)
		}
		runs = 1
	}
	for i := range uint64(runs) {
		t.Run(fmt.Sprint(first+i), func(t *testing.T) {
			t.Parallel()
			newModel(t, first+i).run(operations)
		})
	}
}

// model is a worker with what it should hold.
type model struct {
	t       *testing.T
	r       *rand.Rand
	dir     string
	engine  *engine.Engine
	handler http.Handler
	docs    map[string]*document
	names   []string // of docs, in the order in which they came to be
	edits   int
	seq     uint64   // the last one seen
	trace   []string // the last operations
	seed    uint64

	keys int    // writes with keys so far
	key  string // of the last request; empty without one
	sent []sent // those that were made
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, r: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), docs: map[string]*document{}, seed: seed}
	for i := range 8 {
		m.add(fmt.Sprint("doc", i))
	}
	for _, name := range []string{"längerer Name", "日記 +%", "a.b", "~"} {
		m.add(name)
	}
	m.start()
	t.Cleanup(func() { engine.Crash(m.engine) })
	return m
}

func (m *model) add(name string) *document {
	d := &document{name: name}
	d.adopt()
	m.docs[name] = d
	m.names = append(m.names, name)
	return d
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\nafter\n%s\nrepeat with SQ_SEED=%d", fmt.Sprintf(format, args...), strings.Join(m.trace, "\n"), m.seed)
}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
	m.trace = m.trace[max(0, len(m.trace)-40):]
}

func (m *model) start() {
	m.t.Helper()
	var err error
	if m.engine, err = engine.OpenIdle(m.dir, m.seed); err != nil {
		m.fatalf("open: %v", err)
	}
	m.handler = api.New(api.Config{
		Engine: m.engine, Tenant: "acme", Version: "test", Logger: zap.NewNop(),
		Syncs: none, Checkpoints: none,
	})
}

// none is no histogram of the disk.
func none() (h wire.Histogram) { return h }

// recorder reads answers at once, so it needs no deadline.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetWriteDeadline(time.Time) error { return nil }

// ask sends a request, a write sometimes with a key. Without a place it is about
// the whole document.
func (m *model) ask(op, name string, at *phext.Coordinate, body string) (int, string, http.Header) {
	r := m.request(op, name, at, body)
	m.keyHeader(r)
	w := recorder{httptest.NewRecorder()}
	m.handler.ServeHTTP(w, r)
	m.keep(op, name, at, body, w.ResponseRecorder)
	return w.Code, w.Body.String(), w.Header()
}

func (m *model) request(op, name string, at *phext.Coordinate, body string) *http.Request {
	query := url.Values{wire.ParamAddress: {"acme"}}
	if at != nil {
		query.Set(wire.ParamAddress, "acme."+at.String())
	}
	if name != "" {
		query.Set(wire.ParamDocument, name)
	}
	method := http.MethodGet
	if rule, ok := wire.Rules[wire.Op(op)]; ok {
		method = rule.Method()
	}
	r := httptest.NewRequest(method, "/"+op+"?"+query.Encode(), strings.NewReader(body))
	r.Header.Set(wire.HeaderQuota, "0")
	return r
}

// want sends a request and fails unless the answer is this one.
func (m *model) want(op, name string, at *phext.Coordinate, body string, status int, want string) http.Header {
	m.t.Helper()
	code, got, header := m.ask(op, name, at, body)
	if code != status || status == http.StatusOK && got != want {
		m.fatalf("%s of %q at %v: %d %.2000q,\nwant %d %.2000q", op, name, at, code, got, status, want)
	}
	return header
}

func (m *model) run(operations int) {
	weights := []struct {
		weight int
		do     func(d *document)
	}{
		{12, func(d *document) { m.write(d, "insert") }},
		{10, func(d *document) { m.write(d, "update") }},
		{8, func(d *document) { m.write(d, "delete") }},
		{25, func(d *document) { m.read(d, m.r.IntN(len(reads))) }},
		{2, func(*document) { m.whole() }},
		{3, func(d *document) { m.load(d) }},
		{3, func(d *document) { m.replace(d) }},
		{2, func(d *document) { m.remove(d) }},
		{4, func(d *document) { m.checkpoint(d) }},
		{3, func(d *document) { m.edit(d) }},
		{6, func(*document) { m.again() }},
		{1, func(*document) { m.restart(m.r.IntN(3) > 0) }},
	}
	total := 0
	for _, w := range weights {
		total += w.weight
	}
	for range operations {
		d := m.docs[m.names[m.r.IntN(len(m.names))]]
		pick := m.r.IntN(total)
		for _, w := range weights {
			if pick -= w.weight; pick < 0 {
				w.do(d)
				break
			}
		}
	}
	m.everything()
	m.restart(false)
	m.everything()
}

func (m *model) write(d *document, op string) {
	e := edit{op: op, at: engine.Near(m.r)}
	if op != "delete" {
		e.text = string(engine.Words(m.r, 60))
	}
	if scrolls := d.sorted(); len(scrolls) > 0 && m.r.IntN(2) == 0 {
		e.at = scrolls[m.r.IntN(len(scrolls))].At
	}
	m.note("%s of %q at %v: %q", op, d.name, e.at, e.text)
	d.touch(e.text != "")
	if d.refuses() {
		m.want(op, d.name, &e.at, e.text, http.StatusConflict, "")
		if m.r.IntN(3) == 0 {
			m.load(d)
		}
		return
	}
	before := len(d.changes)
	n := d.write(e)
	verb := map[string]string{"insert": "Inserted", "update": "Updated", "delete": "Removed"}[op]
	h := m.want(op, d.name, &e.at, e.text, http.StatusOK, fmt.Sprintf("%s %d bytes", verb, n))
	seq := m.state(h, d.scrolls[e.at])
	if len(d.changes) > before && seq <= m.seq {
		m.fatalf("sequence %d after %d", seq, m.seq)
	}
	m.seq = max(m.seq, seq)
}

func (m *model) load(d *document) {
	m.note("load of %q", d.name)
	kept, conflict := d.load()
	m.want("load", d.name, nil, "", http.StatusOK, "Loaded "+d.name+".phext")
	if !conflict {
		return
	}
	// The changes that the file lacked are a document now.
	for _, d := range m.docs {
		d.placed = false
	}
	_, body, _ := m.ask("documents", "", nil, "")
	var found []string
	for line := range strings.Lines(body) {
		name, _, _ := strings.Cut(line, "\t")
		if other := m.docs[name]; strings.Contains(name, ".conflict-") && (other == nil || !other.exists()) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		m.fatalf("load of %q kept unsaved changes in %q, want one document", d.name, found)
	}
	c := m.docs[found[0]]
	if c == nil {
		c = m.add(found[0])
	}
	c.replace(file{true, kept})
	m.note("kept as %q", c.name)
	c.touch(false)
	m.want("download", c.name, nil, "", http.StatusOK, kept)
	if m.r.IntN(8) > 0 {
		m.remove(c)
	}
}

// raw makes a phext that nothing has put into canonical form.
func (m *model) raw() string {
	var b []byte
	for range m.r.IntN(12) {
		b = append(b, engine.Words(m.r, 12)...)
		b = append(b, phext.Breaks[m.r.IntN(len(phext.Breaks))])
	}
	return string(b)
}

func (m *model) replace(d *document) {
	text := m.raw()
	m.note("replace of %q by %q", d.name, text)
	d.touch(true)
	if d.refuses() {
		m.want("replace", d.name, nil, text, http.StatusConflict, "")
		return
	}
	d.replace(file{true, text})
	m.want("replace", d.name, nil, text, http.StatusOK, fmt.Sprintf("Replaced %s.phext: %d bytes", d.name, len(text)))
}

func (m *model) remove(d *document) {
	m.note("remove of %q", d.name)
	d.touch(false)
	switch {
	case !d.exists():
		m.want("remove", d.name, nil, "", http.StatusNotFound, "")
	case d.refuses():
		m.want("remove", d.name, nil, "", http.StatusConflict, "")
	default:
		m.want("remove", d.name, nil, "", http.StatusOK, fmt.Sprintf("Removed %s.phext: %d bytes", d.name, len(d.text())))
		d.replace(file{})
	}
}

func (m *model) checkpoint(d *document) {
	if !d.open || d.placed {
		return
	}
	m.note("checkpoint of %q", d.name)
	err := engine.CheckpointNow(m.engine, d.name)
	if d.checkpoint() != (err == nil) || err != nil && !errors.Is(err, engine.ErrChanged) {
		m.fatalf("checkpoint of %q, refused %t: %v", d.name, d.refuses(), err)
	}
	if disk, err := os.ReadFile(m.path(d.name)); err == nil != d.disk.exists || string(disk) != d.disk.text {
		m.fatalf("after a checkpoint the file of %q holds %q, %v; want %q", d.name, disk, err, d.disk.text)
	}
}

func (m *model) path(name string) string { return filepath.Join(m.dir, name+wire.DocumentExt) }

// edit is a person's: to write the file anew beside its name or in place, or to
// remove it.
func (m *model) edit(d *document) {
	f := file{true, m.raw()}
	path, kind := m.path(d.name), m.r.IntN(5)
	err := error(nil)
	switch {
	case kind == 0:
		f = file{}
		if err = os.Remove(path); !d.disk.exists && errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	case kind == 1 && d.disk.exists:
		err = os.WriteFile(path, []byte(f.text), 0o600)
	default:
		temp := filepath.Join(m.dir, ".editor")
		if err = os.WriteFile(temp, []byte(f.text), 0o600); err == nil {
			err = os.Rename(temp, path)
		}
	}
	if err == nil && f.exists {
		// Edits of one length within a tick of the file system's clock would
		// look the same.
		m.edits++
		when := time.Unix(int64(m.edits), 0)
		err = os.Chtimes(path, when, when)
	}
	if err != nil {
		m.fatalf("edit of %q: %v", d.name, err)
	}
	m.note("edit of %q: %v, now %+v", d.name, kind, f)
	d.place(f)
	if d.orphan != nil && !d.exists() {
		m.load(d) // any request does as much, where a file appears
	}
}

func (m *model) restart(crash bool) {
	m.note("restart, crash %t", crash)
	clean := true
	if crash {
		engine.Crash(m.engine)
	}
	var err error
	if !crash {
		err = m.engine.Close()
	}
	for _, name := range m.names {
		clean = m.docs[name].restart(crash) && clean
	}
	if clean != (err == nil) || err != nil && !errors.Is(err, engine.ErrChanged) {
		m.fatalf("close, expected to be clean %t: %v", clean, err)
	}
	// Documents that were kept in a conflict and are gone are forgotten.
	m.names = slices.DeleteFunc(m.names, func(name string) bool {
		gone := strings.Contains(name, ".conflict-") && !m.docs[name].exists()
		if gone {
			delete(m.docs, name)
		}
		return gone
	})
	m.start()
	if m.r.IntN(8) == 0 {
		m.everything()
	}
}
