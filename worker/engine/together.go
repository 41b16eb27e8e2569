package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sqedge/sqedge/shared/phext"
)

// Kind is what a [Mutation] does to its scroll.
type Kind = opKind

// The kinds of mutations; see the methods of [Engine] of these names.
const (
	Append = opAppend
	Put    = opPut
	Delete = opDelete
)

// Mutation is one of several changes that hold together.
type Mutation struct {
	Kind     Kind
	Document string
	At       phext.Coordinate
	Text     []byte // not of a Delete
}

// Apply makes all of the changes, in their order, or none: they are one record of
// the log, with one sequence, and a reader sees either none of them or, in each
// document, all. The results are in the order of the changes. Else it is as
// [Engine.Append] is.
func (e *Engine) Apply(ctx context.Context, changes []Mutation, quota int64) ([]Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &several{results: make([]Result, len(changes))}
	defer s.release()
	size := 0
	for i, ch := range changes {
		if ch.Kind != Append && ch.Kind != Put && ch.Kind != Delete {
			return nil, fmt.Errorf("change %d of a batch is of no known kind", i)
		}
		if size += len(ch.Text); size > maxText {
			return nil, fmt.Errorf("a batch has texts of more than %d bytes", maxText)
		}
		d, err := e.find(ch.Document, len(ch.Text) > 0)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue // nothing is emptied where there is no document
		}
		w := &write{change: change{ch.Kind, ch.At, ch.Text, quota}, doc: d}
		if ch.Kind == Put {
			w.change.text = bytes.Clone(ch.Text) // it stays
		}
		s.writes, s.places = append(s.writes, w), append(s.places, i)
		if slices.Contains(s.docs, d) {
			d.unpin()
		} else {
			s.docs = append(s.docs, d)
		}
	}
	// Whoever locks several does so in one order.
	slices.SortFunc(s.docs, func(a, b *document) int { return cmp.Compare(a.name, b.name) })
	for {
		err := e.makeTogether(s, false)
		if errors.Is(err, ErrChanged) {
			err = e.makeTogether(s, true) // see [Engine.make]
		}
		var full *fullError
		if !errors.As(err, &full) {
			if err != nil {
				return nil, err
			}
			break
		}
		select {
		case <-full.freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for i, w := range s.writes {
		r, err := w.answer()
		if err != nil {
			return nil, err
		}
		s.results[s.places[i]] = r
	}
	return s.results, nil
}

// several are changes on their way that hold together.
type several struct {
	writes  []*write
	places  []int       // of the writes among the changes asked for
	docs    []*document // pinned, each once, by name
	results []Result
}

func (s *several) release() {
	for _, w := range s.writes {
		w.space.release()
	}
	for _, d := range s.docs {
		d.unpin()
	}
}

// makeTogether has the changes ordered and waits until they are durable. With
// settled, no checkpoint of the documents is under way meanwhile.
func (e *Engine) makeTogether(s *several, settled bool) error {
	for _, d := range s.docs {
		if settled {
			d.io.Lock()
			defer d.io.Unlock()
		}
	}
	for _, d := range s.docs {
		d.gate.RLock()
		defer d.gate.RUnlock()
	}
	var b *batch
	var err error
	e.exclusively(func() {
		b = e.pending
		err = guard(func() error { return e.orderTogether(s) })
	})
	if err != nil {
		return err
	}
	e.hasten()
	return b.wait()
}

// orderTogether is order for several changes. The caller holds committing.
func (e *Engine) orderTogether(s *several) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	size, claimed := 0, int64(0)
	for _, w := range s.writes {
		size += len(w.doc.now.get(w.at)) + len(w.text)
		claimed += recordSize(w.doc.name, len(w.text))
	}
	for _, d := range s.docs {
		if err := e.admitLocked(d); err != nil {
			return err
		}
	}
	if err := e.admitMemoryLocked(size); err != nil {
		return err
	}
	for !e.claimLocked(claimed) {
		var err error
		if e.unlocked(func() { err = e.extendCommitting(claimed) }); err != nil {
			return err
		}
	}
	return e.applyTogetherLocked(s, claimed)
}

// applyTogetherLocked makes the changes in memory, or takes back those that were
// made before one that cannot be. It uses up the claim.
func (e *Engine) applyTogetherLocked(s *several, claimed int64) (err error) {
	total := e.total
	before := make([]*content, len(s.docs))
	for i, d := range s.docs {
		before[i] = d.now.snapshot()
	}
	var ops []operation
	var made []*write
	for _, w := range s.writes {
		o, changed, err := e.alterLocked(w, func(int) error { return nil })
		if err != nil {
			for i, d := range s.docs {
				d.now.release()
				d.now = before[i]
				e.account(d)
			}
			e.total = total
			e.promised -= claimed
			return err
		}
		if changed {
			ops, made = append(ops, operation{w.doc, o}), append(made, w)
		}
	}
	for _, c := range before {
		c.release()
	}
	if len(ops) == 0 {
		e.promised -= claimed
		return nil
	}
	b := e.add(ops[0].doc, ops[0].op, claimed)
	b.records[len(b.records)-1].more = ops[1:]
	for _, w := range made {
		b.claim(w.doc, 0)
		e.logged(w)
	}
	return nil
}
