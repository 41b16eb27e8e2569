package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/sqedge/sqedge/worker/internal/faults"
)

// tenant is the plain model of a data directory. A document that is nil, or
// missing, does not exist.
type tenant map[string]shadow

func (m tenant) clone() tenant {
	c := tenant{}
	for name, s := range m {
		c[name] = maps.Clone(s)
	}
	return c
}

func (m tenant) set(document string, at int, text string) {
	if m[document] == nil {
		m[document] = shadow{}
	}
	m[document][place(at)] = text
}

// step is something that happens to an engine.
type step struct {
	name   string
	do     func(*Engine) error
	effect func(tenant)                 // of a client's request; nil for what the engine does by itself
	want   func(tenant) (refused error) // other than by a fault; nil for never
	once   func(Once) (Result, error)   // of a write that carries a key; else nil
}

func appendStep(document string, at int, text string) step {
	return step{name: "append " + document,
		do:     func(e *Engine) error { _, err := e.Append(ctx, document, place(at), []byte(text), 0); return err },
		effect: func(m tenant) { m.set(document, at, m[document][place(at)]+text) }}
}

func putStep(document string, at int, text string) step {
	return step{name: "put " + document,
		do:     func(e *Engine) error { _, err := e.Put(ctx, document, place(at), []byte(text), 0); return err },
		effect: func(m tenant) { m.set(document, at, text) }}
}

func deleteStep(document string, at int) step {
	return step{name: "delete " + document,
		do: func(e *Engine) error { _, err := e.Delete(ctx, document, place(at)); return err },
		effect: func(m tenant) {
			if m[document] != nil {
				m.set(document, at, "")
			}
		}}
}

func replaceStep(document string, scrolls shadow) step {
	body := scrolls.document()
	return step{name: "replace " + document,
		do:     func(e *Engine) error { _, err := e.Replace(ctx, document, bytes.NewReader(body), 0); return err },
		effect: func(m tenant) { m[document] = maps.Clone(scrolls) }}
}

func removeStep(document string) step {
	return step{name: "remove " + document,
		do:     func(e *Engine) error { _, err := e.Remove(ctx, document); return err },
		effect: func(m tenant) { delete(m, document) },
		want: func(m tenant) error {
			if m[document] == nil {
				return ErrNotFound
			}
			return nil
		}}
}

// keyedStep is a step whose write carries a key.
func keyedStep(s step, do func(Once) (Result, error)) step {
	s.once, s.name = do, s.name+" with a key"
	s.do = func(e *Engine) error { _, err := do(e.Once(KeyOf(s.name))); return err }
	return s
}

func checkpointStep(document string) step {
	return step{name: "checkpoint " + document, do: func(e *Engine) error {
		d, err := e.find(document, false)
		if d == nil || err != nil {
			return err
		}
		defer d.unpin()
		return e.checkpoint(d)
	}}
}

// edited is what a person makes of document "edited", and editing the step
// before which that happens.
const (
	edited  = "by hand"
	editing = "append to the edited"
)

// steps are the life of an engine: whatever it does with the system happens in
// it at least once.
var steps = func() []step {
	large := shadow{} // mapped, and written back step by step
	for i := range 5 {
		large[place(1+i)] = strings.Repeat("large ", 80_000)
	}
	conflict := appendStep("edited", 1, " refused")
	conflict.name, conflict.effect = editing, nil
	conflict.want = func(tenant) error { return ErrChanged }
	s := []step{
		appendStep("old", 1, "+1"),
		putStep("new", 3, "text"),
		keyedStep(appendStep("new", 3, " once"), func(o Once) (Result, error) { return o.Append(ctx, "new", place(3), []byte(" once"), 0) }),
		appendStep("edited", 1, "+0"),
		deleteStep("old", 2),
		{name: "mark", do: func(e *Engine) error { e.exclusively(e.mark); return nil }},
		checkpointStep("old"),
		appendStep("old", 1, "+2"),
	}
	for i := range 6 { // a segment and a half
		s = append(s, putStep("log", 1+i, strings.Repeat("log ", 10_000)))
	}
	return append(s,
		replaceStep("large", large),
		appendStep("large", 2, "+3"),
		checkpointStep("large"),
		appendStep("old", 1, "+4"),
		checkpointStep("log"),
		keyedStep(removeStep("new"), func(o Once) (Result, error) { return o.Remove(ctx, "new") }),
		appendStep("edited", 1, "+5"),
		conflict,
		step{name: "reload", do: func(e *Engine) error { return e.Reload(ctx, "edited") }},
		appendStep("edited", 1, "+6"),
		keyedStep(replaceStep("small", shadow{place(1): "small"}), func(o Once) (Result, error) {
			return o.Replace(ctx, "small", strings.NewReader("small"), 0)
		}),
		appendStep("small", 1, "+7"),
		replaceStep("small", shadow{place(1): "small"}), // what its file is already
		step{name: "read", do: func(e *Engine) error {
			v, err := e.View("large")
			if err == nil {
				_, err = v.WriteTo(io.Discard)
				v.Close()
			}
			_, err2 := e.Stats()
			return errors.Join(err, err2)
		}},
	)
}()

// outcome is what a child says about a step.
type outcome struct {
	Err    string
	Full   bool // by the error's type
	Failed bool
	Known  bool // to be answered other than by 503 or 507, such as a conflict
	Engine bool // the engine has failed
	Behind bool // over the file of keys, which is written beside the writes
}

const stepsEnv = "SQ_ENGINE_TEST_STEPS"

func init() {
	faults.Expose()
	children[stepsEnv] = obey
}

// order is what a child shall do: open a directory, end as in a drain or as in
// a crash, or take a step.
type order struct {
	Open  string
	Close bool
	Abort bool
	Step  int
}

// obey takes orders until there are no more.
func obey() error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var e *Engine
	for {
		var o order
		if err := in.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var err error
		switch {
		case o.Open != "":
			e, err = Open(faultOptions(o.Open))
		case o.Close:
			err = e.Close()
		case o.Abort:
			e.abort()
		default:
			err = steps[o.Step].do(e)
		}
		r := outcome{Full: IsFull(err), Failed: errors.Is(err, ErrFailed), Engine: e != nil && e.Err() != nil,
			Known: errors.Is(err, ErrChanged) || errors.Is(err, ErrNotFound)}
		r.Behind = r.Engine && strings.Contains(e.Err().Error(), "write "+controlFolder+"/"+keysFile)
		if err != nil {
			r.Err = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func faultOptions(dir string) Options {
	return Options{Dir: dir, Tenant: "test", Logger: zap.NewNop(), idle: never, segment: 150 << 10}
}

// child is a process with an engine in it, whose calls can fail.
type child struct {
	*faults.Injector
	in  *json.Encoder
	out *json.Decoder
}

func MustStartChild(t *testing.T) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stepsEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := faults.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &child{in, json.NewEncoder(stdin), json.NewDecoder(stdout)}
}

func (c *child) MustObey(t *testing.T, o order) (r outcome) {
	t.Helper()
	if err := c.in.Encode(o); err != nil {
		t.Fatal(err)
	}
	if err := c.out.Decode(&r); err != nil {
		t.Fatalf("the process ended: %v", err)
	}
	return r
}
