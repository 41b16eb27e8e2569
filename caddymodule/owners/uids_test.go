package owners

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseRange(t *testing.T) {
	for _, s := range []string{
		"", "-", "200000", "200000-", "-200000", "a-b", "200000-b", "200001-200000", "999-2000", "0-5", "-1-5", "+1000-2000",
		"200000-4294967295", "200000-2147483647", "200000-99999999999", "60000-70000", "65535-65535", "65534-65534", "2000 - 3000", "2000-3000-4000",
	} {
		if r, err := ParseRange(s); err == nil || r != (Range{}) || !strings.Contains(err.Error(), s) {
			t.Errorf("%q: %v, %v", s, r, err)
		}
	}
	for s, want := range map[string]Range{"1000-1000": {1000, 1000}, "200000-265535": {200000, 265535}, "65536-2147483646": {65536, MaxUID}} {
		if r, err := ParseRange(s); err != nil || r != want || r.String() != s {
			t.Errorf("%q: %v, %v", s, r, err)
		}
	}
}

func mustUID(t *testing.T, b *Book, tenant string, r Range) uint32 {
	t.Helper()
	uid, err := b.UID(tenant, r)
	if err != nil || uid < r.First || uid > r.Last {
		t.Fatalf("%s: uid %d, %v", tenant, uid, err)
	}
	return uid
}

func TestUIDs(t *testing.T) {
	r := Range{2000, 2003}
	path := filepath.Join(t.TempDir(), "tenants.owners.jsonl")
	b := mustOpen(t, path, all)
	mustSet(t, b, "a", id1)
	uids := map[string]uint32{}
	owner := map[uint32]string{}
	for _, tenant := range []string{"a", "b", "c", "d"} {
		uids[tenant] = mustUID(t, b, tenant, r)
		if other := owner[uids[tenant]]; other != "" {
			t.Errorf("%s has the uid of %s", tenant, other)
		}
		owner[uids[tenant]] = tenant
	}
	if uid, err := b.UID("e", r); err == nil || !strings.Contains(err.Error(), "2000-2003") {
		t.Errorf("a fifth of four uids: %d, %v", uid, err)
	}
	mustSet(t, b, "b", id2)
	mustSet(t, b, "a", "")
	b.Close()
	b = mustOpen(t, path, all)
	for tenant, uid := range uids {
		if again := mustUID(t, b, tenant, r); again != uid || !b.HasUID(tenant) {
			t.Errorf("%s had uid %d and has %d", tenant, uid, again)
		}
	}
	if b.ID("b") != id2 || b.ID("a") != "" {
		t.Errorf("a has the id %q, b %q", b.ID("a"), b.ID("b"))
	}
	// What is given back is another's only after going round.
	if err := b.Forget("b", func() bool { return true }); err != nil || b.HasUID("b") || b.ID("b") != "" {
		t.Error(err)
	}
	if err := b.DropUID("c"); err != nil || b.HasUID("c") {
		t.Error(err)
	}
	if got := mustUID(t, b, "e", r); got != uids["b"] { // the last was d's, so that b's comes first
		t.Errorf("e has uid %d, want %d", got, uids["b"])
	}
	// Another range gives another uid.
	other := Range{3000, 3009}
	if got := mustUID(t, b, "a", other); got == uids["a"] {
		t.Errorf("a keeps uid %d", got)
	}
	mustUID(t, b, "f", Range{uids["a"], uids["a"]})
}

func TestBadUIDs(t *testing.T) {
	for text, want := range map[string]string{
		`{"tenant":"a","uid":0.5}` + "\n":                                       "line 1: not an object",
		`{"tenant":"a","uid":-1}` + "\n":                                        "line 1: not an object",
		`{"tenant":"a","uid":999}` + "\n":                                       "line 1: uid: want",
		`{"tenant":"a","uid":4294967295}` + "\n":                                "line 1: uid: want",
		`{"tenant":"a","uid":2000}` + "\n" + `{"tenant":"b","uid":2000}` + "\n": "have the same uid 2000",
	} {
		if b, err := Open(mustWrite(t, text), all); b != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	// What one had before another is no fault, nor is that of a tenant that is gone.
	text := `{"tenant":"a","uid":2000}` + "\n" + `{"tenant":"a","uid":2001}` + "\n" + `{"tenant":"b","uid":2000}` + "\n" + `{"tenant":"gone","uid":2001}` + "\n"
	b := mustOpen(t, mustWrite(t, text), func(tenant string) bool { return tenant != "gone" })
	if got := mustUID(t, b, "a", Range{2000, 2009}); got != 2001 {
		t.Errorf("a has uid %d", got)
	}
	b.Close()
	if _, err := b.UID("c", Range{2000, 2009}); !errors.Is(err, errClosed) {
		t.Errorf("a closed book gives a uid: %v", err)
	}
}

// BenchmarkUIDs gives each of ever more tenants a uid.
func BenchmarkUIDs(b *testing.B) {
	book, err := Open(filepath.Join(b.TempDir(), "tenants.owners.jsonl"), all)
	if err != nil {
		b.Fatal(err)
	}
	defer book.Close()
	n := 0
	for b.Loop() {
		if _, err := book.UID(fmt.Sprintf("t%d", n), Range{200_000, 10_000_000}); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
