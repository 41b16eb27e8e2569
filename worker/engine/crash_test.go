package engine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/shared/phext"
)

// What the tests of a killed process and of a power cut have in common: a
// process that writes for ever and says what was acknowledged, and a check of
// what is found afterwards.

const (
	childEnv = "SQ_ENGINE_TEST_CHILD" // the data directory
	earlyEnv = "SQ_ENGINE_TEST_EARLY" // not empty: acknowledge while the sync is still under way
	writers  = 16
)

// runs is how often a test is to crash something: a tenth of usual with -short.
func runs(usual, nightly int) int {
	switch {
	case os.Getenv("SQ_TEST") == "nightly":
		return nightly
	case testing.Short():
		return max(1, usual/10)
	}
	return usual
}

// children are what the test binary can be instead, by an environment variable.
var children = map[string]func() error{}

func TestMain(m *testing.M) {
	for name, child := range children {
		if os.Getenv(name) != "" {
			if err := child(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	if dir := os.Getenv(childEnv); dir != "" {
		if os.Getenv(earlyEnv) != "" {
			onDisk := syncData
			syncData = func(f *os.File) error {
				go onDisk(f)
				return nil
			}
		}
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// writeForEver writes with many goroutines, and prints a line for each write
// that was acknowledged. Each appends numbers to a scroll of its own, so that a
// write lost or done twice shows. Each also replaces and removes a document of
// its own, whose text begins with a version that ascends. What a key makes safe to
// send again is sent again at the start of each life.
func writeForEver(dir string) error {
	opts := Options{Dir: dir, Tenant: "test", Logger: zap.NewNop(), idle: time.Millisecond}
	e, err := Open(opts)
	if err == nil && rand.IntN(2) == 0 { // every other one drains first
		if err = e.Close(); err == nil {
			e, err = Open(opts)
		}
	}
	if err != nil {
		return err
	}
	var out sync.Mutex
	tell := func(what string, w int, n int64) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(what, w, n)
	}
	failed := make(chan error)
	for w := range writers {
		go func() {
			failed <- func() error {
				document, at := appendedDocument(w)
				v, err := e.View(document)
				if err != nil {
					return err
				}
				next := int64(bytes.Count(v.Select(at), []byte(" ")))
				v.Close()
				if err := repeat(e, w, next); err != nil {
					return err
				}
				r := rand.New(rand.NewPCG(uint64(w), uint64(os.Getpid())))
				for ; ; next++ {
					if _, err := e.Once(numberKey(w, next)).Append(ctx, document, at, fmt.Appendf(nil, "%d ", next), 0); err != nil {
						return err
					}
					tell("append", w, next)
					// Fill segments, and add and remove documents meanwhile.
					version := time.Now().UnixNano()
					switch r.IntN(40) {
					case 0:
						_, err = e.Put(ctx, "filler", at, bytes.Repeat([]byte("f"), r.IntN(300_000)), 0)
					case 1:
						if _, err = e.Once(wholeKey(w, version)).Replace(ctx, wholeDocument(w), strings.NewReader(wholeText(version)), 0); err == nil {
							tell("replace", w, version)
						}
					case 2:
						if _, err = e.Remove(ctx, wholeDocument(w)); err == nil {
							tell("remove", w, version)
						} else if err == ErrNotFound {
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

// repeat sends the writes with keys again that a writer's documents show the
// last of. They were made, acknowledged or not, so that must do nothing.
func repeat(e *Engine, w int, appends int64) error {
	document, at := appendedDocument(w)
	if last := (appends - 1) / keyedEach * keyedEach; appends > 0 {
		r, err := e.Once(numberKey(w, last)).Append(ctx, document, at, fmt.Appendf(nil, "%d ", last), 0)
		if err != nil || !r.Replayed {
			return fmt.Errorf("writer %d sends append %d of %d again: %+v, %v", w, last, appends, r, err)
		}
	}
	v, err := e.View(wholeDocument(w))
	if err != nil {
		return err
	}
	defer v.Close()
	if !v.Exists() {
		return nil
	}
	var text bytes.Buffer
	if _, err := v.WriteTo(&text); err != nil {
		return err
	}
	version, err := parseWhole(text.Bytes())
	if err != nil {
		return err
	}
	r, err := e.Once(wholeKey(w, version)).Replace(ctx, wholeDocument(w), &text, 0)
	if err != nil || !r.Replayed {
		return fmt.Errorf("writer %d sends replacement %d again: %+v, %v", w, version, r, err)
	}
	return nil
}

// keyedEach is how many appends there are for one that has a key: not too few, for
// only so many keys are kept.
const keyedEach = 16

func numberKey(w int, n int64) Key {
	if n%keyedEach != 0 {
		return Key{}
	}
	return KeyOf(fmt.Sprint("append ", w, " ", n))
}

func wholeKey(w int, version int64) Key { return KeyOf(fmt.Sprint("whole ", w, " ", version)) }

// appendedDocument is where a writer appends.
func appendedDocument(w int) (string, phext.Coordinate) {
	at := phext.Origin
	at[w%phext.Dimensions] = uint16(1 + w)
	return fmt.Sprint("doc", w%3), at
}

// wholeDocument is the one that a writer replaces.
func wholeDocument(w int) string { return fmt.Sprint("whole", w) }

func wholeText(version int64) string {
	return fmt.Sprint(version, " ", strings.Repeat("a\x17", int(version%1000)))
}

// parseWhole returns the version of a replaced document, which must be whole.
func parseWhole(text []byte) (version int64, err error) {
	number, _, _ := bytes.Cut(text, []byte(" "))
	if version, err = strconv.ParseInt(string(number), 10, 64); err == nil && string(text) != wholeText(version) {
		err = fmt.Errorf("it is not version %d as it was written", version)
	}
	return version, err
}

// acknowledged is what the writers were told is on disk.
type acknowledged struct {
	appends  [writers]int64 // how many
	replaced [writers]int64 // the version of the last replacement
	removed  [writers]int64 // a version above those that were removed and below those after
}

// note reads a line of a writing process.
func (a *acknowledged) note(line string) error {
	var what string
	var w int
	var n int64
	if _, err := fmt.Sscanf(line, "%s %d %d\n", &what, &w, &n); err != nil {
		return fmt.Errorf("the child wrote %q: %w", line, err)
	}
	switch what {
	case "append":
		a.appends[w] = n + 1
	case "replace":
		a.replaced[w] = n
	case "remove":
		a.removed[w] = n
	}
	return nil
}

// check opens a data directory after a crash: no file may be invalid, the open
// must not be refused, and all that was acknowledged must be there once. It then
// closes the engine, cleanly or as a crash would, and takes what it found as
// acknowledged.
func (a *acknowledged) check(dir string, clean bool) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.phext"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = phext.Validate(text)
		}
		if err == nil {
			err = phext.Scan(text, func(phext.Coordinate, int, int) {})
		}
		if err != nil {
			return fmt.Errorf("file %s: %w", filepath.Base(file), err)
		}
	}
	e, err := Open(options(dir))
	if err != nil {
		return err
	}
	for w := range writers {
		if err = errors.Join(a.checkAppends(e, w), a.checkWhole(e, dir, w)); err != nil {
			break
		}
	}
	if err == nil && clean {
		return e.Close()
	}
	e.abort()
	return err
}

func (a *acknowledged) checkAppends(e *Engine, w int) error {
	document, at := appendedDocument(w)
	v, err := e.View(document)
	if err != nil {
		return err
	}
	defer v.Close()
	var want []byte
	got := v.Select(at)
	n := int64(bytes.Count(got, []byte(" ")))
	for i := range n {
		want = fmt.Appendf(want, "%d ", i)
	}
	if n < a.appends[w] || !bytes.Equal(got, want) {
		return fmt.Errorf("writer %d had %d appends acknowledged, its scroll ends %q", w, a.appends[w], got[max(0, len(got)-60):])
	}
	a.appends[w] = n
	return nil
}

// checkWhole looks for the last version of a replaced document, which a removal
// that was under way may have moved to the trash.
func (a *acknowledged) checkWhole(e *Engine, dir string, w int) error {
	var newest int64
	trash, err := filepath.Glob(filepath.Join(dir, trashFolder, wholeDocument(w)+"-*"))
	if err != nil {
		return err
	}
	for _, file := range trash {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		version, err := parseWhole(text)
		if err != nil {
			return fmt.Errorf("file %s in the trash: %w", filepath.Base(file), err)
		}
		newest = max(newest, version)
	}
	v, err := e.View(wholeDocument(w))
	if err != nil {
		return err
	}
	defer v.Close()
	if v.Exists() {
		var text bytes.Buffer
		if _, err := v.WriteTo(&text); err != nil {
			return err
		}
		version, err := parseWhole(text.Bytes())
		if err != nil {
			return fmt.Errorf("document %s: %w", wholeDocument(w), err)
		}
		if version < a.removed[w] {
			return fmt.Errorf("document %s has version %d again, though its removal was acknowledged", wholeDocument(w), version)
		}
		newest = max(newest, version)
	} else {
		a.removed[w] = max(a.removed[w], newest+1)
	}
	if newest < a.replaced[w] {
		return fmt.Errorf("document %s had version %d acknowledged, the newest found is %d", wholeDocument(w), a.replaced[w], newest)
	}
	a.replaced[w] = newest
	return nil
}

// runWriters runs a writing process and calls each with every line it prints,
// until it ends; each may kill it. With early it acknowledges before the log is
// synced. A line that its end cuts off does not count.
func runWriters(t *testing.T, dir string, early bool, each func(child *os.Process, line string)) (*os.ProcessState, string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = []string{childEnv + "=" + dir, "GORACE=atexit_sleep_ms=0"} // else one of a race build lingers for a second
	if early {
		child.Env = append(child.Env, earlyEnv+"=yes")
	}
	var stderr bytes.Buffer
	child.Stderr = &stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // where each ends the test
		child.Process.Kill()
		child.Wait()
	}()
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		each(child.Process, line)
	}
	child.Wait()
	return child.ProcessState, stderr.String()
}
