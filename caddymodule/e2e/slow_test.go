package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSlowReadersAreDropped: a client that stops reading must not keep the old
// version of a document open for ever, and must not take what it got for the
// whole. The worker's own deadline is shortened.
func TestSlowReadersAreDropped(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "sq-worker")
	must(t, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nexec %s \"$@\" -answer-time 1s\n", workerBinary), 0o700))
	e := Start(t, Setup{Env: []string{"SQ_WORKER=" + script}})
	text := strings.Repeat("a line of a document of some size\n", 800_000) // 27 MB
	e.Want("tok-alpha", "PUT", "/documents/slow", text, 200, fmt.Sprintf("Replaced slow.phext: %d bytes", len(text)))
	pid := e.Stats("alpha").Worker.PID
	held := func() error {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		must(t, err)
		if strings.Contains(string(maps), "/slow.phext (deleted)") {
			return errors.New("the worker holds the old file")
		}
		return nil
	}

	one := e.dial(t)
	must(t, one.SetDeadline(time.Now().Add(2*rawTimeout)))
	_, err := io.WriteString(one, rawHead("GET /get?p=slow HTTP/1.1", "Host: "+e.host(), alphasKey))
	must(t, err)
	r := bufio.NewReader(one)
	first, err := http.ReadResponse(r, nil)
	must(t, err)
	second := e.mustSend(e.client, "GET", "/documents/slow", nil)
	defer second.Body.Close()
	if second.ProtoMajor != 2 {
		t.Errorf("the second client speaks %s", second.Proto)
	}

	e.Want("tok-alpha", "PUT", "/documents/slow", "new", 200, "Replaced slow.phext: 3 bytes")
	e.Want("tok-alpha", "GET", "/get?p=slow", "", 200, "new")
	if held() == nil {
		t.Error("nothing holds the old file: this test shows nothing")
	}
	Eventually(t, "both clients are given up", func() error {
		if n := strings.Count(e.Log(), "a client read its answer too slowly"); n != 2 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	Eventually(t, "the old file is gone", held)
	for _, resp := range []*http.Response{first, second} {
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil || n >= int64(len(text)) {
			t.Errorf("%s: an answer of %d of %d bytes looks whole", resp.Proto, n, len(text))
		}
	}
}
