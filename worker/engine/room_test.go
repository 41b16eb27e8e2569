package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// TestRecordSize: no record takes more of the log than was claimed for it.
func TestRecordSize(t *testing.T) {
	for _, name := range []string{"a", strings.Repeat("n", wire.MaxDocumentName)} {
		base := op{kind: opBase, document: name}
		for _, n := range []int{0, 1, 127, 128, 1 << 14, 1 << 21} {
			text := make([]byte, n)
			for _, ops := range [][]op{
				{base, {kind: opAppend, document: name, text: text}},
				{base, {kind: opDelete, document: name}},
				{{kind: opIntent, document: name}},
			} {
				if got, most := len(appendFrame(nil, [8]byte{}, 1, 0, ops...)), recordSize(name, n); int64(got) > most {
					t.Errorf("%d operations with %d bytes of text take %d bytes, claimed are %d", len(ops), n, got, most)
				}
			}
			w := &write{change: change{text: text}, doc: &document{name: name}, key: testKey}
			ops := []op{base, {kind: opAppend, document: name, text: text}, {kind: opKey, key: testKey}}
			if got := len(appendFrame(nil, [8]byte{}, 1, 0, ops...)); int64(got) > w.size() {
				t.Errorf("with a key and %d bytes of text it takes %d bytes, claimed are %d", n, got, w.size())
			}
		}
	}
	if got := len(appendFrame(nil, [8]byte{}, 1, 0, op{kind: opKey, key: testKey})); int64(got) > frameHeader+testKey.size() {
		t.Errorf("a key takes %d bytes, claimed are %d", got, frameHeader+testKey.size())
	}
}

// TestRoomIsShared has many writers fill short segments. A record beyond what
// was allocated would be damage to whoever reads the log.
func TestRoomIsShared(t *testing.T) {
	dir := t.TempDir()
	opts := options(dir)
	opts.segment = 100 << 10
	e := MustOpenWith(t, opts)
	const writers, writes = 16, 40
	var wg sync.WaitGroup
	want := make([]shadow, writers)
	for w := range writers {
		want[w] = shadow{}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			document := fmt.Sprint("doc", w)
			for i := range writes {
				at := phext.Origin
				at[0] = uint16(1 + i%5)
				text := strings.Repeat("x", 1+r.IntN(30_000))
				if _, err := e.Put(ctx, document, at, []byte(text), 0); err != nil {
					t.Error(err)
					return
				}
				want[w][at] = text
				if i%10 == 9 {
					if err := e.checkpoint(e.docs[document]); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if e.promised != 0 {
		t.Errorf("%d bytes of the log are promised to nobody", e.promised)
	}
	e.abort()
	e = MustOpen(t, dir)
	for w := range writers {
		want[w].check(t, e, fmt.Sprint("doc", w))
	}
}
