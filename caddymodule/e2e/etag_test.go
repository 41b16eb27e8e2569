package e2e

import (
	"strconv"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

// TestWritesAndReadsCarryETagAndSequence follows one scroll: its ETag is its
// checksum, and the tenant's sequence ascends, across documents and a restart.
func TestWritesAndReadsCarryETagAndSequence(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	last := uint64(0)
	check := func(method, path, body, text string, write bool) {
		t.Helper()
		got := e.Do("tok-alpha", method, path, body)
		etag := ""
		if text != "" {
			etag = `"` + phext.Checksum([]byte(text)) + `"`
		}
		seq, err := strconv.ParseUint(got.Header.Get("SQ-Seq"), 10, 64)
		if got.Status != 200 || got.Header.Get("ETag") != etag || err != nil || write && seq <= last || !write && seq != last {
			t.Errorf("%s %s: %d, ETag %s, SQ-Seq %q after %d, want ETag %s", method, path, got.Status, got.Header.Get("ETag"), got.Header.Get("SQ-Seq"), last, etag)
		}
		last = max(last, seq)
	}
	notes, other := "p=notes&c="+origin, "p=other&c="+origin
	check("POST", "/insert?"+notes, "hello", "hello", true)
	check("POST", "/insert?"+notes, " again", "hello again", true)
	check("GET", "/select?"+notes, "", "hello again", false)
	check("GET", "/load?"+notes, "", "hello again", false)
	check("POST", "/update?"+other, "other", "other", true)
	e.Quit()
	e.Boot()
	check("POST", "/update?"+notes, "anew", "anew", true)
	check("DELETE", "/delete?"+notes, "", "", true)
}
