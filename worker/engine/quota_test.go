package engine

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/phext"
)

// TestQuotaRace lets 64 writers write, shrink, replace and remove at the edge of
// a quota. Stats never pass it, and whenever all writers rest, stats are the sum
// of what every document holds, as they are of the files in the end.
func TestQuotaRace(t *testing.T) {
	const quota, writers, each = 60_000, 64, 40
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	MustWriteFile(t, dir, "other.phext", strings.Repeat("x", 20_000)) // counts without being opened
	e := MustOpen(t, dir)
	var (
		all              sync.WaitGroup
		rest             sync.RWMutex // writers share it; held to let them rest
		written, refused atomic.Int64
	)
	stored := func() int64 {
		stats, err := e.Stats()
		if err != nil {
			t.Error(err)
		}
		if stats.StorageBytes > quota {
			t.Errorf("%d bytes are stored under a quota of %d", stats.StorageBytes, quota)
		}
		return stats.StorageBytes
	}
	recount := func() {
		rest.Lock()
		defer rest.Unlock()
		if sum, n := sumOfDocuments(t, e), stored(); sum != n {
			t.Errorf("the documents hold %d bytes, stats say %d", sum, n)
		}
	}
	for w := range writers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := range each {
				rest.RLock()
				err := writeSome(e, r, quota)
				rest.RUnlock()
				var full *QuotaError
				switch {
				case err == nil:
					written.Add(1)
				case errors.As(err, &full) && full.Used <= quota && full.Need > 0:
					refused.Add(1)
				case !errors.Is(err, ErrNotFound): // a removal of nothing
					t.Errorf("writer %d: %v", w, err)
					return
				}
				stored()
				if i%10 == 9 {
					recount()
				}
			}
		})
	}
	all.Wait()
	recount()
	t.Logf("%d writes were done, %d refused", written.Load(), refused.Load())
	if written.Load() < writers || refused.Load() < 2*writers {
		t.Error("the writers did not meet at the edge")
	}
	// Freeing is always allowed, even beyond a quota that was lowered.
	if _, err := e.Put(ctx, "doc0", phext.Origin, nil, 1); err != nil {
		t.Errorf("emptying a scroll over quota: %v", err)
	}
	n := stored()
	MustClose(t, e)
	onDisk := int64(0)
	files, _ := filepath.Glob(filepath.Join(dir, "*.phext"))
	for _, file := range files {
		onDisk += int64(len(MustReadFile(t, file)))
	}
	e = MustOpen(t, dir)
	stats, err := e.Stats()
	if err != nil || n != onDisk || stats.StorageBytes != onDisk || stats.Documents != len(files) {
		t.Errorf("stats said %d bytes and say %d in %d documents (%v); the disk holds %d in %d",
			n, stats.StorageBytes, stats.Documents, err, onDisk, len(files))
	}
}

// writeSome makes one of every kind of change to one of a few documents.
func writeSome(e *Engine, r *rand.Rand, quota int64) (err error) {
	document, at := fmt.Sprint("doc", r.IntN(5)), phext.Origin
	at[r.IntN(phext.Dimensions)] = uint16(1 + r.IntN(40)) // up to 39 breaks
	text := func(most int) []byte { return bytes.Repeat([]byte("y"), r.IntN(most)) }
	switch r.IntN(40) {
	default:
		_, err = e.Append(ctx, document, at, text(1500), quota)
	case 0, 1, 2, 3, 4, 5, 6, 7:
		_, err = e.Put(ctx, document, at, text(3000), quota)
	case 8, 9, 10:
		_, err = e.Delete(ctx, document, at)
	case 11, 12:
		body := strings.Repeat(string(text(100))+"\x17\x19", r.IntN(60)) // redundant breaks count, too
		_, err = e.Replace(ctx, document, strings.NewReader(body), quota)
	case 13:
		_, err = e.Remove(ctx, document)
	}
	return err
}

// sumOfDocuments returns how many bytes all documents hold together.
func sumOfDocuments(t *testing.T, e *Engine) (sum int64) {
	infos, err := e.List()
	if err != nil {
		t.Error(err)
	}
	for _, info := range infos {
		v, err := e.View(info.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		var b bytes.Buffer
		v.WriteTo(&b)
		v.Close()
		sum += int64(b.Len())
	}
	return sum
}
