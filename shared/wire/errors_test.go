package wire

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// MustAnswer sends one request to a server that answers e.
func MustAnswer(t *testing.T, e *Error, method, accept string) (*http.Response, string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { WriteError(w, r, e) }))
	defer server.Close()
	req, err := http.NewRequest(method, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestWriteErrorText(t *testing.T) {
	e := &Error{Status: 503, Message: "document \"日記\" cannot be read", RetryAfter: 7, Err: errors.New("secret cause")}
	resp, body := MustAnswer(t, e, http.MethodGet, "")
	if resp.StatusCode != 503 || body != e.Message {
		t.Errorf("answer %d %q, want 503 %q", resp.StatusCode, body, e.Message)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	if resp.ContentLength != int64(len(e.Message)) {
		t.Errorf("Content-Length %d, want %d", resp.ContentLength, len(e.Message))
	}
	if got := resp.Header.Get("Retry-After"); got != "7" {
		t.Errorf("Retry-After %q, want 7", got)
	}
	if _, has := resp.Header["Allow"]; has {
		t.Error("Allow without being asked for")
	}
}

func TestWriteErrorProblem(t *testing.T) {
	e := &Error{Status: 405, Message: `say "GET" <here>`, Allow: "GET, HEAD", Err: errors.New("secret cause")}
	resp, body := MustAnswer(t, e, http.MethodPut, "application/json")
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("answer %d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
	if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	want := map[string]any{"type": "about:blank", "title": "Method Not Allowed", "status": 405.0, "detail": e.Message}
	if len(got) != len(want) {
		t.Errorf("members %v, want %v", got, want)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
	if _, has := resp.Header["Retry-After"]; has {
		t.Error("Retry-After without being asked for")
	}
}

func TestWriteErrorHead(t *testing.T) {
	for _, accept := range []string{"", "application/json"} {
		e := Errorf(404, "no document %q", "notes")
		get, text := MustAnswer(t, e, http.MethodGet, accept)
		head, body := MustAnswer(t, e, http.MethodHead, accept)
		if head.StatusCode != 404 || body != "" {
			t.Errorf("HEAD: %d %q, want 404 without a body", head.StatusCode, body)
		}
		if head.ContentLength != int64(len(text)) || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") {
			t.Errorf("HEAD says %d bytes of %q, GET %d of %q", head.ContentLength, head.Header.Get("Content-Type"), len(text), get.Header.Get("Content-Type"))
		}
	}
}

func TestWriteDeltaError(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		WriteDeltaError(w, &Error{Status: 503, Message: "日 is\nbroken", RetryAfter: 1})
	}))
	defer server.Close()
	req, err := http.NewRequest(http.MethodPost, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) != 0 || resp.ContentLength != 0 || resp.StatusCode != 503 {
		t.Errorf("answer %d %q, %v, want 503 without a body", resp.StatusCode, body, err)
	}
	if got := resp.Header.Get(HeaderError); got != "? is?broken" {
		t.Errorf("%s %q", HeaderError, got)
	}
	if got := resp.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %q, want 1", got)
	}
}

func TestErrorKeepsItsCause(t *testing.T) {
	e := &Error{Status: 503, Message: "cannot read", Err: fs.ErrPermission}
	if !errors.Is(e, fs.ErrPermission) || !strings.Contains(e.Error(), "cannot read") || !strings.Contains(e.Error(), fs.ErrPermission.Error()) {
		t.Errorf("Error() = %q", e.Error())
	}
	if got := Errorf(400, "byte %d", 7).Error(); got != "byte 7" {
		t.Errorf("Error() = %q", got)
	}
}

func TestPrefersJSON(t *testing.T) {
	for _, tt := range []struct {
		accept []string
		want   bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{"*/*"}, false},
		{[]string{"text/plain"}, false},
		{[]string{"text/html,application/xhtml+xml,*/*;q=0.8"}, false},
		{[]string{"application/json, text/plain"}, false},
		{[]string{"application/json, text/plain, */*"}, false},
		{[]string{"application/json;q=0.5, text/plain"}, false},
		{[]string{"*/*, application/json;q=0.5"}, false},
		{[]string{"application/json;q=0"}, false},
		{[]string{"application/json;q=NaN"}, false},
		{[]string{"application/json;q=2, text/plain"}, false},
		{[]string{"application/json;q=-1"}, false},
		{[]string{"application/json;q=high"}, false},
		{[]string{"application"}, false},
		{[]string{";;;,,,=/"}, false},
		{[]string{"application/jsonp"}, false},

		{[]string{"application/json"}, true},
		{[]string{"APPLICATION/JSON"}, true},
		{[]string{"application/json; charset=utf-8"}, true},
		{[]string{"application/problem+json"}, true},
		{[]string{"application/json, */*;q=0.5"}, true},
		{[]string{"text/plain;q=0.5, application/json;q=0.6"}, true},
		{[]string{"text/*;q=0.1", "application/json"}, true},
		{[]string{"text/plain;q=nan, application/json"}, true},
		{[]string{"text/html, application/json"}, true},
	} {
		r := &http.Request{Header: http.Header{"Accept": tt.accept}}
		if got := PrefersJSON(r); got != tt.want {
			t.Errorf("PrefersJSON(%q) = %v, want %v", tt.accept, got, tt.want)
		}
	}
}
