package e2e

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Upload is a PUT of a whole document whose text has not ended yet, so that the
// tenant's worker has a request that goes on for as long as the test wants.
type Upload struct {
	text   *io.PipeWriter
	answer chan uploaded
}

type uploaded struct {
	Reply
	err error
}

// Upload begins to put a document with some first text and returns once the
// worker has received some of it. A header is given as "Name: value".
func (e *Edge) Upload(tenant Tenant, document, first string, headers ...string) *Upload {
	e.t.Helper()
	temps := func() int {
		files, err := filepath.Glob(filepath.Join(tenant.DataDir, ".sq/tmp-*"))
		must(e.t, err)
		return len(files)
	}
	before := temps()
	r, w := io.Pipe()
	u := &Upload{text: w, answer: make(chan uploaded, 1)}
	req, err := http.NewRequest("PUT", e.url+"/api/v2/documents/"+document, r)
	must(e.t, err)
	req.Header.Set("Authorization", "Bearer "+tenant.Key)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	go func() {
		resp, err := e.client.Do(req)
		if err != nil {
			u.answer <- uploaded{err: err}
			return
		}
		got, err := readAll(resp)
		u.answer <- uploaded{got, err}
	}()
	_, err = io.WriteString(w, first)
	must(e.t, err)
	e.t.Cleanup(func() { w.CloseWithError(errors.New("the test has ended")) })
	Eventually(e.t, "the worker receives the document", func() error {
		if temps() == before {
			return errors.New("it holds no temporary file more")
		}
		return nil
	})
	return u
}

// Finish sends the rest of the text and returns the answer.
func (u *Upload) Finish(t *testing.T, rest string) Reply {
	t.Helper()
	_, err := io.WriteString(u.text, rest)
	must(t, err)
	must(t, u.text.Close())
	return u.Wait(t)
}

// Wait returns the answer, which comes before the text has ended where the
// request failed.
func (u *Upload) Wait(t *testing.T) Reply {
	t.Helper()
	got := <-u.answer // the client's timeout bounds it
	must(t, got.err)
	return got.Reply
}

// MustRename renames a file.
func MustRename(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.Rename(from, to))
}
