package api

import (
	"bufio"
	"bytes"
	"fmt"
	"iter"
	"net/http"
	"slices"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// held is a scroll as the client holds it.
type held struct {
	at   phext.Coordinate
	hash []byte // of its text, as the client wrote it
}

// delta answers with a phext of the scrolls in which the server differs from
// what the client says it holds.
func (h *handler) delta(w *answer, r *request) error {
	text, err := r.text(w, wire.MaxText)
	if err != nil {
		return err
	}
	client, err := parseHashes(text)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	return h.view(r, func(v *engine.View) error {
		return w.stream(r, typeText, func(b *bufio.Writer) error {
			last := phext.Origin
			var breaks []byte
			for at, scroll := range differences(v.Scrolls(), client) {
				breaks = phext.AppendBreaks(breaks[:0], last, at)
				last = at
				b.Write(breaks)
				if _, err := b.Write(scroll); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// parseHashes reads lines of "coordinate: hash", in any order, ended by LF or
// CRLF; empty ones count for nothing. Of two for one place the later holds. The
// result ascends.
func parseHashes(text []byte) ([]held, error) {
	var list []held
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		place, hash, ok := bytes.Cut(line, []byte(":"))
		if hash = bytes.TrimSpace(hash); !ok || len(hash) == 0 {
			return nil, fmt.Errorf("line %d is not \"coordinate: hash\"", number)
		}
		at, err := phext.ParseCoordinate(string(place))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		list = append(list, held{at, hash})
	}
	slices.SortStableFunc(list, func(a, b held) int { return a.at.Compare(b.at) })
	kept := list[:0]
	for i, s := range list {
		if i+1 == len(list) || list[i+1].at != s.at {
			kept = append(kept, s)
		}
	}
	return kept, nil
}

// differences merges the server's scrolls with the client's, both ascending. It
// yields each scroll of the server's that the client lacks or holds otherwise,
// and [wire.MissingScroll] for each that only the client has.
func differences(server iter.Seq2[phext.Coordinate, []byte], client []held) iter.Seq2[phext.Coordinate, []byte] {
	return func(yield func(phext.Coordinate, []byte) bool) {
		missing := []byte(wire.MissingScroll)
		for at, scroll := range server {
			for len(client) > 0 && client[0].at.Less(at) {
				if !yield(client[0].at, missing) {
					return
				}
				client = client[1:]
			}
			if len(client) > 0 && client[0].at == at {
				same := string(client[0].hash) == phext.Checksum(scroll)
				client = client[1:]
				if same {
					continue
				}
			}
			if !yield(at, scroll) {
				return
			}
		}
		for _, s := range client {
			if !yield(s.at, missing) {
				return
			}
		}
	}
}
