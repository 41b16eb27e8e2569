package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

const mib = 1 << 20

// byHandWorker is a worker's process with a socket of its own.
type byHandWorker struct {
	t      *testing.T
	cmd    *exec.Cmd
	client *http.Client
	peak   atomic.Int64 // of anonymous memory, in bytes
}

func startByHand(t *testing.T, dir string, memoryMB int) *byHandWorker {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(mustTempDir(t), "s")
	w := &byHandWorker{t: t, cmd: exec.Command(path, "serve", "-tenant", "acme", "-dir", dir, "-listen", socket, "-memory", strconv.Itoa(memoryMB))}
	w.cmd.Env = []string{}
	w.cmd.Stderr = os.Stderr
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.cmd.Process.Kill()
		w.cmd.Wait()
	})
	w.client = awaitSocket(t, socket)
	w.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 32
	return w
}

// stop ends the worker, which writes all checkpoints.
func (w *byHandWorker) stop() {
	w.t.Helper()
	w.cmd.Process.Signal(syscall.SIGTERM)
	if err := w.cmd.Wait(); err != nil {
		w.t.Fatal(err)
	}
}

// sample notes what memory the process has of its own: all but mapped files.
func (w *byHandWorker) sample() int64 {
	w.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		w.t.Fatalf("no RssAnon in %s", status)
	}
	for peak := w.peak.Load(); kib<<10 > peak && !w.peak.CompareAndSwap(peak, kib<<10); peak = w.peak.Load() {
	}
	return kib << 10
}

// checkPeak compares the most that any sample found with what serve says.
func (w *byHandWorker) checkPeak(memoryMB int) {
	w.t.Helper()
	w.sample()
	limit := int64(memoryMB)*mib*3/2 + 32*mib
	w.t.Logf("anonymous memory: at most %d MiB, with a budget of %d MiB; the limit is %d MiB", w.peak.Load()/mib, memoryMB, limit/mib)
	if w.peak.Load() > limit && !raceDetector {
		w.t.Errorf("the worker took %d MiB of anonymous memory, want at most %d", w.peak.Load()/mib, limit/mib)
	}
}

func (w *byHandWorker) ask(ctx context.Context, method, op, document string, at phext.Coordinate, body []byte) (io.ReadCloser, error) {
	uri := fmt.Sprintf("http://sq/%s?c=acme.%v&p=%s", op, at, url.QueryEscape(document))
	if op == "get" {
		uri = fmt.Sprintf("http://sq/%s?c=acme&p=%s", op, url.QueryEscape(document))
	}
	r, err := http.NewRequestWithContext(ctx, method, uri, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set(wire.HeaderQuota, "0")
	resp, err := w.client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s %s of %s: %s %q", method, op, document, resp.Status, text)
	}
	return resp.Body, nil
}

func (w *byHandWorker) text(method, op, document string, at phext.Coordinate, body []byte) (string, error) {
	answer, err := w.ask(context.Background(), method, op, document, at, body)
	if err != nil {
		return "", err
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	return string(text), err
}

// place is the i-th place of the tests' documents.
func place(i int) phext.Coordinate {
	at := phext.Origin
	at[5], at[6], at[7], at[8] = uint16(1+i/1_000_000), uint16(1+i/10_000%100), uint16(1+i/100%100), uint16(1+i%100)
	return at
}

// TestManyDocuments: 2,000 documents, which together take three times the
// budget, are read and written at random within it.
func TestManyDocuments(t *testing.T) {
	const (
		documents, scrolls = 2000, 1000
		clients, rounds    = 16, 150
		memoryMB           = wire.DefaultMemory
	)
	dir := t.TempDir()
	line := strings.Repeat("t", 55)
	var text []phext.Scroll
	for i := range scrolls {
		text = append(text, phext.Scroll{At: place(i), Text: []byte(line)})
	}
	document := phext.AppendDocument(nil, text)
	for d := range documents {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("d%d.phext", d)), document, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := startByHand(t, dir, memoryMB)
	var group sync.WaitGroup
	changed := make([]map[string]string, clients) // "document scroll" to its text
	for c := range clients {
		changed[c] = make(map[string]string)
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(c), 1))
			for i := range rounds {
				d, s := r.IntN(documents/clients)*clients+c, r.IntN(scrolls) // a document has one client
				name, key := fmt.Sprint("d", d), fmt.Sprint(d, s)
				want, ok := changed[c][key]
				if !ok {
					want = line
				}
				var err error
				switch r.IntN(3) {
				case 0:
					want = fmt.Sprint("client ", c, " round ", i, line)
					_, err = w.text(http.MethodPost, "update", name, place(s), []byte(want))
				case 1:
					want += "+"
					_, err = w.text(http.MethodPost, "insert", name, place(s), []byte("+"))
				}
				if err != nil {
					t.Error(err)
					return
				}
				changed[c][key] = want
				if got, err := w.text(http.MethodGet, "select", name, place(s), nil); err != nil || got != want {
					t.Errorf("%s at %v: %q, %v, want %q", name, place(s), got, err, want)
					return
				}
				if i%16 == 0 {
					w.sample()
				}
			}
		})
	}
	group.Wait()
	w.checkPeak(memoryMB)
	w.stop()
	for d := range documents {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("d%d.phext", d)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := phext.Scrolls(data)
		if err != nil || len(got) != scrolls {
			t.Fatalf("document %d has %d scrolls, %v", d, len(got), err)
		}
		for s, scroll := range got {
			want, ok := changed[d%clients][fmt.Sprint(d, s)]
			if !ok {
				want = line
			}
			if string(scroll.Text) != want {
				t.Fatalf("document %d at %v is %q, want %q", d, scroll.At, scroll.Text, want)
			}
		}
	}
}

// largeText writes the large document's text: scrolls of 1,000 bytes, some of
// them changed.
func largeText(w io.Writer, scrolls int, changed map[int]string) error {
	b := bufio.NewWriterSize(w, mib)
	at := phext.Origin
	var buf []byte
	for i := range scrolls {
		buf = phext.AppendBreaks(buf[:0], at, place(i))
		at = place(i)
		if text, ok := changed[i]; ok {
			buf = append(buf, text...)
		} else {
			buf = append(buf, largeScroll(i)...)
		}
		if _, err := b.Write(buf); err != nil {
			return err
		}
	}
	return b.Flush()
}

var filler = strings.Repeat("f", 1000)

func largeScroll(i int) string { return (strconv.Itoa(i) + " " + filler)[:1000] }

// TestLargeDocument opens, reads, changes, checkpoints and reopens a document
// many times larger than the memory: beyond 2^31 bytes with SQ_TEST=nightly.
func TestLargeDocument(t *testing.T) {
	const memoryMB = wire.DefaultMemory
	scrolls := 250_000
	if os.Getenv("SQ_TEST") == "nightly" {
		scrolls = 2_200_000
	} else {
		t.Log("250 MB; SQ_TEST=nightly makes it 2.2 GB")
	}
	size := int64(scrolls) * 1001
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < size*5/2+mib*500 {
		t.Skipf("%d MiB are free on the disk, and this takes %d", free/mib, (size*5/2+mib*500)/mib)
	}
	path := filepath.Join(dir, "large.phext")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := largeText(file, scrolls, nil); err != nil {
		t.Fatal(err)
	}
	file.Close()

	changed := make(map[int]string)
	w := startByHand(t, dir, memoryMB)
	step := func(what string) func() {
		start := time.Now()
		return func() { t.Logf("%s: %v, %d MiB", what, time.Since(start).Round(time.Millisecond), w.sample()/mib) }
	}
	check := func() {
		t.Helper()
		for _, i := range []int{0, 1, 2, scrolls / 2, scrolls - 2, scrolls - 1} {
			want, ok := changed[i]
			if !ok {
				want = largeScroll(i)
			}
			if got, err := w.text(http.MethodGet, "select", "large", place(i), nil); err != nil || got != want {
				t.Fatalf("scroll %d is %.30q of %d bytes, %v, want %.30q of %d", i, got, len(got), err, want, len(want))
			}
		}
	}
	stream := func() {
		t.Helper()
		want, got := xxh3.New(), xxh3.New()
		if err := largeText(want, scrolls, changed); err != nil {
			t.Fatal(err)
		}
		body, err := w.ask(context.Background(), http.MethodGet, "get", "large", phext.Origin, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		n, err := io.Copy(got, body)
		if err != nil || got.Sum128() != want.Sum128() {
			t.Fatalf("got %d bytes that are not the document, %v", n, err)
		}
	}

	done := step("open and select")
	check()
	done()
	done = step("append and update")
	for _, i := range []int{1, scrolls / 2, scrolls - 1} {
		if _, err := w.text(http.MethodPost, "insert", "large", place(i), []byte(" appended")); err != nil {
			t.Fatal(err)
		}
		changed[i] = largeScroll(i) + " appended"
	}
	check()
	done()
	done = step("get with changes")
	stream()
	done()

	// More than half of the budget waits for a checkpoint, so one is written.
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	done = step("changes that force a checkpoint")
	for i := range 24 {
		n := scrolls/3 + i
		changed[n] = strings.Repeat(strconv.Itoa(i%10), 2*mib)
		if _, err := w.text(http.MethodPost, "update", "large", place(n), []byte(changed[n])); err != nil {
			t.Fatal(err)
		}
		w.sample()
	}
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		w.sample()
		if after, err := os.Stat(path); err == nil && !os.SameFile(before, after) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no checkpoint is written")
		}
	}
	check()
	done()
	done = step("get after the checkpoint")
	stream()
	done()
	w.checkPeak(memoryMB)
	w.stop()
	w = startByHand(t, dir, memoryMB)
	done = step("reopen, select and get")
	check()
	stream()
	done()
	w.checkPeak(memoryMB)
}
