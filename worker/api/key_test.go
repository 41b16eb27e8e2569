package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/sqedge/sqedge/shared/wire"
	"github.com/sqedge/sqedge/worker/engine"
)

// TestIdempotencyKey: the worker reads the key as strictly as the edge, makes the
// write once, and says so. What the engine does with it is the engine's test.
func TestIdempotencyKey(t *testing.T) {
	w := MustServe(t, t.TempDir(), testTenant)
	const insert = "/insert?p=notes&c=acme." + origin
	for _, bad := range []string{`""`, "a b", "a,b", `"a`, "é"} {
		if resp, got := w.MustDo(t, http.MethodPost, insert, "text", wire.HeaderKey, bad); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("key %q: %d %s, want 400", bad, resp.StatusCode, got)
		}
	}
	twice := MustRequest(t, http.MethodPost, insert, http.NoBody, wire.HeaderKey, "a")
	twice.Header.Add(wire.HeaderKey, "a")
	if resp, got, err := w.do(twice); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("two keys: %v %s, %v; want 400", resp, got, err)
	}
	var first http.Header
	for i, replayed := range []string{"", "true", "true"} {
		resp, got := w.MustDo(t, http.MethodPost, insert, "text", wire.HeaderKey, []string{`"k"`, "k", `"k"`}[i])
		if resp.StatusCode != http.StatusOK || got != "Inserted 4 bytes" || resp.Header.Get(wire.HeaderReplayed) != replayed {
			t.Errorf("time %d: %d %s, replayed %q, want %q", i, resp.StatusCode, got, resp.Header.Get(wire.HeaderReplayed), replayed)
		}
		if first == nil {
			first = resp.Header
		}
		for _, name := range []string{"SQ-Seq", "ETag"} {
			if resp.Header.Get(name) != first.Get(name) || first.Get(name) == "" {
				t.Errorf("time %d: %s is %q, was %q", i, name, resp.Header.Get(name), first.Get(name))
			}
		}
	}
	resp, got := w.MustDo(t, http.MethodPost, insert, "texts", wire.HeaderKey, "k")
	if resp.StatusCode != http.StatusUnprocessableEntity || resp.Header.Get(wire.HeaderReplayed) != "" {
		t.Errorf("another text: %d %s, want 422", resp.StatusCode, got)
	}
	w.MustAnswer(t, http.MethodGet, "/select?p=notes&c=acme."+origin, "", "text")
	// A read ignores it, as the edge never sends it with one.
	if resp, got := w.MustDo(t, http.MethodGet, "/get?p=notes&c=acme", "", wire.HeaderKey, "a b"); resp.StatusCode != http.StatusOK {
		t.Errorf("a read: %d %s", resp.StatusCode, got)
	}
}

func TestTooManyKeys(t *testing.T) {
	err := new(handler).explain(new(request), &engine.KeysFullError{Kept: 100_000, RetryAfter: 1500 * time.Millisecond})
	if want := "100000 writes with Idempotency-Key were made within a day, which is the most: try again in 2 s, or without one"; err.Status != http.StatusTooManyRequests || err.RetryAfter != 2 || err.Message != want {
		t.Errorf("%d %q, Retry-After %d; want 429 %q, 2", err.Status, err.Message, err.RetryAfter, want)
	}
}
