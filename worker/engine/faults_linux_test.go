package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/worker/internal/faults"
)

// kinds are the faults of a call, without their Nth.
func kinds(call string) (all []faults.Fault) {
	add := func(mode faults.Mode, errnos ...unix.Errno) {
		for _, errno := range errnos {
			all = append(all, faults.Fault{Call: call, Errno: errno, Mode: mode})
		}
	}
	add(faults.Once, unix.EINTR, unix.EIO)
	switch call {
	case "write", "pwrite":
		add(faults.Once, unix.ENOSPC, unix.EDQUOT)
		add(faults.Ever, unix.ENOSPC)
		add(faults.Short, 0, unix.ENOSPC, unix.EIO)
	case "fsync", "fdatasync":
		add(faults.Once, unix.ENOSPC)
		add(faults.Lost, unix.EIO)
	case "fallocate":
		add(faults.Once, unix.ENOSPC, unix.EDQUOT, unix.EOPNOTSUPP)
		add(faults.Ever, unix.ENOSPC)
	case "openat":
		add(faults.Once, unix.ENOSPC, unix.EMFILE)
	case "renameat":
		add(faults.Once, unix.ENOSPC)
		add(faults.Ever, unix.EIO)
	case "mkdirat", "sync_file_range":
		add(faults.Once, unix.ENOSPC)
	case "unlinkat":
		add(faults.Ever, unix.EIO)
	case "mmap":
		add(faults.Once, unix.ENOMEM)
	}
	return all
}

// invisible reports whether nobody may notice the fault.
func invisible(f faults.Fault) bool {
	return f.Errno == unix.EINTR || f.Errno == unix.EOPNOTSUPP || f.Errno == 0
}

// trial is a data directory, what it holds, and the process that works on it.
type trial struct {
	*testing.T
	fault  faults.Fault
	crash  bool // the engine is not closed in the end
	dir    string
	model  tenant // what was acknowledged
	doubt  tenant // the same with the request during which the engine failed; nil without
	byHand bool   // document "edited" was
	ours   tenant // and what was acknowledged before; of doubt, too
	failed bool   // the engine has
	made   []step // with keys, that were acknowledged
	unsure *step  // with a key, of the doubt
}

func (tr *trial) errorf(format string, args ...any) {
	tr.Helper()
	tr.Errorf("%v (crash: %t): %s", tr.fault, tr.crash, fmt.Sprintf(format, args...))
}

// TestFaults lets each call of an engine fail, one in each life of one, in all
// ways that it can. Nothing acknowledged may be missing afterwards, nothing
// refused may be there, at most the one request in flight may be either; no
// failed sync may be repeated; a full disk is said to be full; a call that was
// interrupted, or did half its work, must not show.
func TestFaults(t *testing.T) {
	templates := map[string]tenant{MustCrash(t): crashed(), fast(t): {}}
	c := MustStartChild(t)
	type life struct {
		template string
		fault    faults.Fault
		crash    bool
	}
	var all, some []life
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for template, m := range templates {
		calls := (&trial{T: t, model: m.clone()}).run(c, template)
		for _, call := range faults.Calls() {
			for _, f := range kinds(call) {
				n := calls.Counts[call]
				for f.Nth = 1; f.Nth <= n; f.Nth++ {
					all = append(all, life{template, f, false}, life{template, f, true})
				}
				for range min(n, 3) {
					f.Nth = 1 + r.IntN(n)
					some = append(some, life{template, f, r.IntN(2) == 0})
				}
			}
		}
		t.Logf("calls: %v", calls.Counts)
	}
	if os.Getenv("SQ_TEST") == "nightly" {
		some = all
	}
	t.Logf("%d of %d faults, seed %d", len(some), len(all), seed)
	hits := make(map[string]int)
	for _, l := range some {
		tr := &trial{T: t, model: templates[l.template].clone(), fault: l.fault, crash: l.crash}
		if tr.run(c, l.template).Hits > 0 {
			hits[l.fault.Call]++
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d lives; faults by call: %v", len(some), hits)
	for _, call := range faults.Calls() {
		if hits[call] == 0 && call != "ftruncate" { // which the engine has no use for
			t.Errorf("no %s has failed", call)
		}
	}
}

// fast returns an empty folder, in memory where the system has one there: the
// lives make many syncs, and what those do is not the question.
func fast(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "sq")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func crashed() tenant {
	return tenant{
		"old":    {place(1): "0 1", place(2): "goes"},
		"edited": {place(1): "e"},
		"log":    {place(9): strings.Repeat("log ", 25_000), place(10): strings.Repeat("gol ", 25_000)},
	}
}

// MustCrash makes a directory with all that a crash leaves: changes that no file
// has in two segments, a torn batch, a temporary file; and a note of old damage.
func MustCrash(t *testing.T) string {
	t.Helper()
	dir := fast(t)
	e := MustOpenWith(t, faultOptions(dir))
	m := crashed()
	MustPut(t, e, "old", origin, "0")
	MustPut(t, e, "old", place(2).String(), "goes")
	MustCheckpoint(t, e, "old")
	if _, err := e.Once(KeyOf("crashed")).Append(ctx, "old", phext.Origin, []byte(" 1"), 0); err != nil {
		t.Fatal(err)
	}
	MustPut(t, e, "edited", origin, "e")
	for _, at := range []int{9, 10} {
		MustPut(t, e, "log", place(at).String(), m["log"][place(at)])
	}
	e.abort()
	last := segments(t, dir)[1]
	data := MustReadFile(t, last)
	epoch, _, _ := readSegmentHeader(data)
	end, next, err := scanSegment("log", data, true, func(uint64, []op) {})
	if err != nil {
		t.Fatal(err)
	}
	torn := appendFrame(nil, epoch, next, next-1, op{kind: opAppend, document: "old", at: phext.Origin, text: []byte("torn")})
	copy(data[end:], torn[:len(torn)-1])
	MustWriteFile(t, filepath.Dir(last), filepath.Base(last), string(data))
	MustWriteFile(t, filepath.Dir(last), tempPrefix+"dead", "left")
	MustWriteFile(t, filepath.Dir(last), quarantine, "damage\n")
	return dir
}

// run copies the template, has the child live through all steps on it with the
// trial's fault, and examines what is left.
func (tr *trial) run(c *child, template string) faults.Report {
	tr.Helper()
	tr.dir = fast(tr.T)
	defer os.RemoveAll(tr.dir)
	if err := os.CopyFS(tr.dir, os.DirFS(template)); err != nil {
		tr.Fatal(err)
	}
	c.Arm(tr.dir, tr.fault)
	if r := c.MustObey(tr.T, order{Open: tr.dir}); r.Err == "" {
		for i, s := range steps {
			if s.name == editing {
				tr.edit()
			}
			tr.judge(s, c.MustObey(tr.T, order{Step: i}), c.Hits() > 0)
		}
		tr.judge(step{name: "close"}, c.MustObey(tr.T, order{Close: !tr.crash, Abort: tr.crash}), c.Hits() > 0)
	} else if c.Hits() == 0 || invisible(tr.fault) {
		tr.errorf("open: %s", r.Err)
	} else if full := tr.fault.Errno == unix.ENOSPC || tr.fault.Errno == unix.EDQUOT; r.Full != full {
		tr.errorf("open: %s: said to be a full disk: %t", r.Err, r.Full)
	}
	report := c.Disarm()
	if len(report.Repeated) > 0 {
		tr.errorf("synced again after a sync had failed: %q", report.Repeated)
	}
	tr.examine()
	return report
}

// edit does what a person's editor does.
func (tr *trial) edit() {
	MustWriteFile(tr.T, tr.dir, "editor's", edited)
	if err := os.Rename(filepath.Join(tr.dir, "editor's"), filepath.Join(tr.dir, "edited.phext")); err != nil {
		tr.Fatal(err)
	}
	tr.byHand, tr.ours = true, tenant{"model": tr.model["edited"]}
	if tr.doubt != nil {
		tr.ours["doubt"] = tr.doubt["edited"]
	}
	for _, m := range []tenant{tr.model, tr.doubt} {
		if m != nil {
			m["edited"] = shadow{phext.Origin: edited}
		}
	}
}

// judge compares what a step led to with what it may lead to.
func (tr *trial) judge(s step, r outcome, hit bool) {
	tr.Helper()
	was := tr.failed
	tr.failed = r.Engine
	var want error
	if s.want != nil {
		want = s.want(tr.model)
	}
	f := tr.fault
	switch {
	case r.Err == "" && want != nil:
		tr.errorf("%s: done, want %v", s.name, want)
	case r.Err == "" && tr.failed && s.effect != nil && (was || !r.Behind):
		tr.errorf("%s: acknowledged by an engine that has failed", s.name)
	case r.Err == "" && s.effect != nil:
		s.effect(tr.model)
		if s.once != nil {
			tr.made = append(tr.made, s)
		}
	case r.Err == "" || r.Known && (want != nil || hit && !invisible(f)):
	case !hit || invisible(f):
		tr.errorf("%s: %s", s.name, r.Err)
	case IsFull(f.Errno) != r.Full:
		tr.errorf("%s: %s: said to be a full disk: %t", s.name, r.Err, r.Full)
	case tr.failed && !r.Failed && s.effect != nil:
		tr.errorf("%s: %s: does not say that the engine has failed", s.name, r.Err)
	case tr.failed && !was && s.effect != nil:
		tr.doubt = tr.model.clone()
		s.effect(tr.doubt)
		if s.once != nil {
			tr.unsure = &s
		}
	}
	if tr.failed && !was {
		// What cannot have touched the log must not end it.
		switch {
		case f.Call == "write", f.Call == "mmap", f.Call == "sync_file_range", f.Call == "fallocate" && IsFull(f.Errno),
			f.Call == "openat" && IsFull(f.Errno), f.Call == "renameat" && strings.HasPrefix(s.name, "checkpoint"):
			tr.errorf("%s: the engine has failed: %s", s.name, r.Err)
		}
	}
	if s.name == "close" && r.Err != "" && !r.Known && !tr.failed && f.Mode != faults.Ever && !strings.Contains(r.Err, f.Errno.Error()) {
		tr.errorf("close, after the fault was gone: %s", r.Err)
	}
}

// examine opens the directory without faults: it must hold what was
// acknowledged, and take writes.
func (tr *trial) examine() {
	tr.Helper()
	e, err := Open(faultOptions(tr.dir))
	if err != nil {
		tr.errorf("open without faults: %v", err)
		return
	}
	if tr.byHand {
		if err := e.Reload(ctx, "edited"); err != nil {
			tr.errorf("reload without faults: %v", err)
		}
	}
	found, ours := tr.read(e)
	m := tr.model
	if !m.equal(found) && tr.doubt != nil {
		m = tr.doubt
	}
	if !m.equal(found) {
		tr.errorf("after it:\n%s\nwant\n%s\nor\n%s", brief(found), tr.model, tr.doubt)
		e.abort()
		return
	}
	for _, kept := range ours {
		if model, doubt := tr.ours["model"], tr.ours["doubt"]; kept != string(model.document()) && kept != string(doubt.document()) {
			tr.errorf("kept of the document edited by hand: %q, want %q or %q", kept, model, doubt)
		}
	}
	if tr.byHand && tr.ours["model"] != nil && len(ours) == 0 {
		tr.errorf("nothing was kept of the document edited by hand")
	}
	m = tr.repeat(e, m).clone()
	for _, s := range []step{appendStep("old", 1, "!"), putStep("log", 1, "!"), replaceStep("large", shadow{place(2): "!"}), removeStep("small")} {
		if err := s.do(e); err == nil {
			s.effect(m)
		} else if s.want == nil || s.want(m) == nil {
			tr.errorf("%s without faults: %v", s.name, err)
		}
	}
	if err := e.Close(); err != nil {
		tr.errorf("close without faults: %v", err)
	}
	if e, err = Open(faultOptions(tr.dir)); err != nil {
		tr.errorf("open again: %v", err)
		return
	}
	defer e.abort()
	if found, _ := tr.read(e); !m.equal(found) {
		tr.errorf("in the end:\n%s\nwant\n%s", brief(found), m)
	}
}

// repeat sends every write with a key again: none of those that were acknowledged
// may change anything, and the one in doubt must have been made once after it. It
// returns what the tenant then holds.
func (tr *trial) repeat(e *Engine, m tenant) tenant {
	tr.Helper()
	again := func(s step, may bool) {
		if r, err := s.once(e.Once(KeyOf(s.name))); err != nil || !r.Replayed && !may {
			tr.errorf("%s again, without faults: %+v, %v; want it replayed", s.name, r, err)
		}
	}
	for _, s := range tr.made {
		again(s, false)
	}
	if tr.unsure != nil {
		again(*tr.unsure, true)
		again(*tr.unsure, false)
		return tr.doubt
	}
	return m
}

// read returns all documents, but for copies that were kept of edited ones.
func (tr *trial) read(e *Engine) (found map[string]string, kept []string) {
	tr.Helper()
	found = make(map[string]string)
	infos, err := e.List()
	if err != nil {
		tr.errorf("list: %v", err)
	}
	total := int64(0)
	for _, info := range infos {
		v, err := e.View(info.Name)
		if err != nil {
			tr.errorf("%v", err)
			continue
		}
		var text bytes.Buffer
		v.WriteTo(&text)
		v.Close()
		total += int64(text.Len())
		if strings.Contains(info.Name, ".conflict-") {
			kept = append(kept, text.String())
		} else {
			found[info.Name] = text.String()
		}
	}
	if stats, err := e.Stats(); err != nil || stats.StorageBytes != total {
		tr.errorf("stats count %d bytes, %v; there are %d", stats.StorageBytes, err, total)
	}
	return found, kept
}

func (m tenant) equal(found map[string]string) bool {
	for name, s := range m {
		if text, ok := found[name]; !ok || text != string(s.document()) {
			return false
		}
	}
	return len(m) == len(found)
}

// String shows documents in short.
func (m tenant) String() string {
	found := make(map[string]string)
	for name, s := range m {
		found[name] = string(s.document())
	}
	return brief(found)
}

func brief(found map[string]string) string {
	var lines []string
	for name, text := range found {
		lines = append(lines, fmt.Sprintf("\t%s: %d bytes %.60q", name, len(text), text))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
