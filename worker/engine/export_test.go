package engine

import "go.uber.org/zap"

// What the model test, which is outside of the package to reach it through the
// api, needs of it.

type Shadow = shadow

var (
	Crash = (*Engine).abort
	Near  = near
	Words = words
)

func (s shadow) Document() []byte { return s.document() }
func (s shadow) Count() int64     { return s.count() }

// OpenIdle opens an engine that checkpoints no document because it is idle, with
// one of the forms of indexes, and with long segments or short ones.
func OpenIdle(dir string, form uint64) (*Engine, error) {
	l := []layout{defaultLayout, sparse, {dense: 4, block: 100}}[form%3]
	segment := []int64{0, 64 << 10}[form%2] // with short ones, keys outlive them
	return Open(Options{Dir: dir, Tenant: "test", Logger: zap.NewNop(), idle: never, layout: l, segment: segment})
}

// CheckpointNow writes the file of a document that is open.
func CheckpointNow(e *Engine, document string) error { return e.checkpoint(e.docs[document]) }
