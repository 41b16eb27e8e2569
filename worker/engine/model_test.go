package engine_test

import (
	"maps"
	"slices"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/worker/engine"
)

// file is what a person finds under a document's name.
type file struct {
	exists bool
	text   string
}

// edit is a change that took effect.
type edit struct {
	op   string // insert, update or delete
	at   phext.Coordinate
	text string
}

func apply(s engine.Shadow, e edit) {
	switch e.op {
	case "insert":
		s[e.at] += e.text
	case "update":
		s[e.at] = e.text
	case "delete":
		s[e.at] = ""
	}
	if s[e.at] == "" {
		delete(s, e.at)
	}
}

// document is the model of one: maps and strings, and the rules of the manual
// for files that a person changes.
type document struct {
	name string
	disk file // as it is in the directory

	// What the engine knows. A document that it has not opened is its file.
	open    bool
	base    file          // that was opened, or written last
	edited  bool          // by hand since
	scrolls engine.Shadow // base with changes
	changes []edit        // that base lacks
	orphan  []edit        // that were found in the log, but not the file they belong to
	lost    file          // that file
	placed  bool          // by hand where there was nothing; the next request opens it
}

// adopt makes the file that is there the document.
func (d *document) adopt() {
	d.base, d.edited = d.disk, false
	d.changes, d.orphan = nil, nil
	d.scrolls = engine.Shadow{}
	scrolls, err := phext.Scrolls([]byte(d.base.text))
	if err != nil {
		panic(err) // no generator makes such a file
	}
	for _, s := range scrolls {
		d.scrolls[s.At] = string(s.Text)
	}
}

// touch is what any request does first: it opens a document that exists, or is
// to be made.
func (d *document) touch(create bool) {
	d.open = d.open || create || d.disk.exists
	d.placed = false
}

func (d *document) exists() bool { return d.base.exists || len(d.changes) > 0 }

// text is what get answers: the file byte for byte until the first change.
func (d *document) text() string {
	if len(d.changes) == 0 {
		return d.base.text
	}
	return string(d.scrolls.Document())
}

// refuses reports whether writes are answered 409.
func (d *document) refuses() bool { return d.edited || d.orphan != nil }

// write changes the document, which must not refuse, and returns the number of
// bytes that the answer names.
func (d *document) write(e edit) int {
	old := d.scrolls[e.at]
	n := len(e.text)
	if e.op == "delete" {
		n = len(old)
	}
	if e.text == "" && (old == "" || e.op == "insert") {
		return n // without effect
	}
	apply(d.scrolls, e)
	d.changes = append(d.changes, e)
	return n
}

// place is an edit by hand.
func (d *document) place(f file) {
	d.disk = f
	switch {
	case !d.open, d.placed, !d.exists() && d.orphan == nil:
		d.adopt() // it contradicts nothing
		d.placed = d.open
	default:
		d.edited = f.exists || d.base.exists
	}
}

// replace is a change of the whole document through the engine.
func (d *document) replace(f file) {
	d.disk = f
	d.adopt()
}

// checkpoint writes the changes to the file, and reports whether it may.
func (d *document) checkpoint() bool {
	if d.refuses() {
		return false
	}
	if len(d.changes) > 0 {
		d.replace(file{true, d.text()})
	}
	return true
}

// load makes an edited file the document. It returns the text of the document
// that keeps unsaved changes, if there are any.
func (d *document) load() (kept string, conflict bool) {
	d.touch(false)
	if !d.refuses() {
		return "", false
	}
	switch {
	case len(d.changes) > 0:
		kept, conflict = d.text(), true
	case d.orphan != nil:
		alone := engine.Shadow{}
		for _, e := range d.orphan {
			apply(alone, e)
		}
		kept, conflict = string(alone.Document()), true
	}
	d.adopt()
	return kept, conflict
}

// restart is the end of one worker and the start of another. It reports whether
// the end was clean, which a crash is, too.
func (d *document) restart(crash bool) (clean bool) {
	clean = crash || len(d.changes) == 0 || d.checkpoint()
	unsaved, belong := d.changes, d.base
	if d.orphan != nil {
		unsaved, belong = d.orphan, d.lost
	}
	d.adopt()
	d.open, d.placed = len(unsaved) > 0, false
	switch {
	case !d.open:
	case d.disk == belong:
		for _, e := range unsaved {
			apply(d.scrolls, e)
		}
		d.changes = unsaved
	default:
		d.orphan, d.lost = unsaved, belong
	}
	return clean
}

// sorted returns the document's scrolls in order.
func (d *document) sorted() (scrolls []phext.Scroll) {
	for _, at := range slices.SortedFunc(maps.Keys(d.scrolls), phext.Coordinate.Compare) {
		scrolls = append(scrolls, phext.Scroll{At: at, Text: []byte(d.scrolls[at])})
	}
	return scrolls
}
