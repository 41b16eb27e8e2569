package engine

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
)

const (
	childEnv = "SQ_ENGINE_TEST_CHILD" // the data directory
	writers  = 16
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// writeForEver writes with many goroutines, each to a scroll of its own, and
// prints a line for each write that was acknowledged. A scroll holds the numbers
// of its writes, so that a write lost or done twice shows.
func writeForEver(dir string) error {
	e, err := Open(Options{Dir: dir, Tenant: "test", Logger: zap.NewNop(), idle: time.Millisecond})
	if err != nil {
		return err
	}
	var out sync.Mutex
	failed := make(chan error)
	for w := range writers {
		go func() {
			failed <- func() error {
				document, at := killDocument(w)
				v, err := e.View(document)
				if err != nil {
					return err
				}
				next := bytes.Count(v.Select(at), []byte(" "))
				v.Close()
				r := rand.New(rand.NewPCG(uint64(w), uint64(os.Getpid())))
				for ; ; next++ {
					if _, err := e.Append(ctx, document, at, fmt.Appendf(nil, "%d ", next), 0); err != nil {
						return err
					}
					out.Lock()
					fmt.Printf("%d %d\n", w, next)
					out.Unlock()
					// Fill segments, and add and remove documents meanwhile.
					switch r.IntN(40) {
					case 0:
						_, err = e.Put(ctx, "filler", at, bytes.Repeat([]byte("f"), r.IntN(300_000)), 0)
					case 1:
						_, err = e.Replace(ctx, fmt.Sprint("whole", w), strings.NewReader(strings.Repeat("a\x17", r.IntN(1000))), 0)
					case 2:
						if _, err = e.Remove(ctx, fmt.Sprint("whole", w)); err == ErrNotFound {
							err = nil
						}
					}
					if err != nil {
						return err
					}
				}
			}()
		}()
	}
	return <-failed
}

func killDocument(w int) (string, phext.Coordinate) {
	at := phext.Origin
	at[w%phext.Dimensions] = uint16(1 + w)
	return fmt.Sprint("doc", w%3), at
}

// TestKill kills a writing process at random instants, over and over on the
// same directory. Every acknowledged write must be there exactly once, every
// file must be a valid phext, and no open may be refused.
func TestKill(t *testing.T) {
	kills := 100
	if testing.Short() {
		kills = 10
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var acknowledged [writers]int // number of writes
	total := 0
	for kill := range kills {
		total += killOnce(t, dir, r.IntN(600), &acknowledged)

		files, err := filepath.Glob(filepath.Join(dir, "*.phext"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text := MustReadFile(t, file)
			if err := phext.Validate(text); err != nil {
				t.Fatalf("kill %d: %s: %v", kill, filepath.Base(file), err)
			}
			if err := phext.Scan(text, func(phext.Coordinate, int, int) {}); err != nil {
				t.Fatalf("kill %d: %s: %v", kill, filepath.Base(file), err)
			}
		}
		e, err := Open(options(dir))
		if err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		for w := range writers {
			document, at := killDocument(w)
			v := MustView(t, e, document)
			var want []byte
			got := v.Select(at)
			n := bytes.Count(got, []byte(" "))
			for i := range n {
				want = fmt.Appendf(want, "%d ", i)
			}
			if n < acknowledged[w] || !bytes.Equal(got, want) {
				t.Fatalf("kill %d: writer %d had %d writes acknowledged, its scroll ends %q", kill, w, acknowledged[w], got[max(0, len(got)-60):])
			}
			acknowledged[w] = n
			v.Close()
		}
		if r.IntN(4) == 0 {
			MustClose(t, e)
		} else {
			e.abort()
		}
	}
	t.Logf("%d kills, %d acknowledged writes", kills, total)
	if total < kills {
		t.Errorf("only %d writes were acknowledged in %d runs", total, kills)
	}
}

// killOnce runs a writing process until it has reported some writes, kills it,
// and returns how many it had reported.
func killOnce(t *testing.T, dir string, after int, acknowledged *[writers]int) (total int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = []string{childEnv + "=" + dir}
	var stderr bytes.Buffer
	child.Stderr = &stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		var w, n int
		if _, err := fmt.Sscanf(line, "%d %d\n", &w, &n); err != nil {
			t.Fatalf("the child wrote %q: %v", line, err)
		}
		acknowledged[w] = max(acknowledged[w], n+1)
		if total == after {
			child.Process.Kill()
		}
		total++
	}
	child.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("the child failed: %s", stderr.String())
	}
	return total
}
