package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestKillStormLosesNoAcknowledgedWrite kills the edge, its workers or both, at
// random instants while clients write.
func TestKillStormLosesNoAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	w := NewWriters(e, "tok-alpha", 8)
	for cycle := range 20 {
		w.Run()
		w.AwaitMore(1 + rand.IntN(150))
		switch cycle % 4 {
		case 0:
			e.KillWorkers()
			w.AwaitMore(10) // by the next worker
			w.Halt()
		case 1:
			e.Kill()
			w.Halt()
			e.Boot() // while the old worker drains
		case 2:
			e.KillWorkers()
			e.Kill()
			w.Halt()
			e.Boot()
		case 3:
			e.Kill()
			e.KillWorkers()
			w.Halt()
			OnDisk(t, e.Tenant("alpha").DataDir) // valid as they lie there
			e.Boot()
		}
		w.Verify()
	}
	e.Quit()
	w.VerifyDisk(e.Tenant("alpha").DataDir)
	present, tried := w.Counts()
	t.Logf("%d writes tried, %d made", tried, present)
}

// outcome is what is known of a write.
type outcome int

const (
	unknown outcome = iota // it got no answer: made, or not
	made
	absent
)

// Writers write through an edge, each one write after the other into a document
// of its own, and know what must be there. Half of them append, so that a write
// made twice shows; half overwrite.
type Writers struct {
	e     *Edge
	key   string
	stop  atomic.Bool
	wg    sync.WaitGroup
	acks  atomic.Int64
	more  chan struct{} // signalled at each acknowledgement
	all   []*writer
	mu    sync.Mutex
	other []string // unexpected answers
}

type writer struct {
	document string
	path     string
	outcomes []outcome // of write i, at scroll i+1
}

func (w *writer) coordinate(i int) string {
	return fmt.Sprintf("1.1.1/1.1.%d/1.1.%d", 1+i/1000, 1+i%1000)
}

func (w *writer) text(i int) string {
	return fmt.Sprintf("%s write %d %s", w.document, i, strings.Repeat("x", i*37%500))
}

// NewWriters makes n writers with a tenant's key.
func NewWriters(e *Edge, key string, n int) *Writers {
	ws := &Writers{e: e, key: key, more: make(chan struct{}, 1)}
	for i := range n {
		op := []string{"insert", "update"}[i%2]
		document := fmt.Sprintf("writer-%d", i)
		ws.all = append(ws.all, &writer{document: document, path: "/" + op + "?p=" + document + "&c="})
	}
	return ws
}

// Run lets the writers write until Halt. A write that fails is not repeated.
func (ws *Writers) Run() {
	ws.stop.Store(false)
	for _, w := range ws.all {
		ws.wg.Go(func() {
			for !ws.stop.Load() {
				i := len(w.outcomes)
				w.outcomes = append(w.outcomes, unknown)
				got, err := ws.e.Try(ws.key, "POST", w.path+w.coordinate(i), w.text(i))
				switch {
				case err != nil: // the edge is gone
				case got.Status == 200:
					w.outcomes[i] = made
					ws.acks.Add(1)
					select {
					case ws.more <- struct{}{}:
					default:
					}
				case got.Status != 502 && got.Status != 503:
					ws.mu.Lock()
					ws.other = append(ws.other, fmt.Sprintf("%d %q", got.Status, got.Body))
					ws.mu.Unlock()
				}
			}
		})
	}
}

// AwaitMore waits until n more writes are acknowledged.
func (ws *Writers) AwaitMore(n int) {
	for until := ws.acks.Load() + int64(n); ws.acks.Load() < until; {
		<-ws.more
	}
}

// Halt ends the writers.
func (ws *Writers) Halt() {
	ws.stop.Store(true)
	ws.wg.Wait()
}

// Unexpected returns the answers that a client must never get.
func (ws *Writers) Unexpected() []string { return ws.other }

// Verify compares what the edge serves with what must be there.
func (ws *Writers) Verify() {
	ws.e.t.Helper()
	for _, w := range ws.all {
		w.verify(ws.e.t, ws.e.Exported(ws.key, w.document))
	}
}

// VerifyDisk compares the files of a data directory with what must be there.
func (ws *Writers) VerifyDisk(dir string) {
	ws.e.t.Helper()
	documents := OnDisk(ws.e.t, dir)
	for _, w := range ws.all {
		w.verify(ws.e.t, documents[w.document])
	}
}

func (w *writer) verify(t *testing.T, scrolls map[string]string) {
	t.Helper()
	present := 0
	for i, known := range w.outcomes {
		text, there := scrolls[w.coordinate(i)]
		switch {
		case there && text != w.text(i):
			t.Fatalf("write %d to %s is there as %q, want %q", i, w.document, clip(text), clip(w.text(i)))
		case !there && known == made:
			t.Fatalf("write %d to %s was acknowledged and is lost", i, w.document)
		case there && known == absent:
			t.Fatalf("write %d to %s appeared after it was found absent", i, w.document)
		}
		w.outcomes[i] = absent
		if there {
			w.outcomes[i] = made
			present++
		}
	}
	if present != len(scrolls) {
		t.Fatalf("%s has %d scrolls that nobody wrote", w.document, len(scrolls)-present)
	}
}

// Counts returns how many writes are there, and how many were tried.
func (ws *Writers) Counts() (present, tried int) {
	for _, w := range ws.all {
		tried += len(w.outcomes)
		for _, o := range w.outcomes {
			if o == made {
				present++
			}
		}
	}
	return present, tried
}
