package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

// recorded is a step of testdata/sq-http.json.
type recorded struct {
	Name       string            `json:"name"`
	Method     string            `json:"method"`
	Path       string            `json:"path"`
	Headers    map[string]string `json:"headers"`
	Body       string            `json:"body"`
	BodyRepeat *struct {
		Unit   string `json:"unit"`
		Length int    `json:"length"`
	} `json:"body_repeat"`
	Expect struct {
		Status     int     `json:"status"`
		Body       *string `json:"body"`
		BodySHA256 string  `json:"body_sha256"`
		BodyLength *int    `json:"body_length"`
	} `json:"expect"`
}

// TestConformanceHTTP replays what the reference server was asked and compares
// the answers, in order, from empty data directories.
func TestConformanceHTTP(t *testing.T) {
	t.Parallel()
	var file struct {
		Keys  map[string]string `json:"keys"`
		Steps []recorded        `json:"steps"`
	}
	mustReadJSON(t, "testdata/sq-http.json", &file)
	if len(file.Steps) != 109 {
		t.Fatalf("%d steps, want 109", len(file.Steps))
	}
	overTLSAndPlain(t, Setup{}, func(t *testing.T, e *Edge) {
		for key, id := range file.Keys {
			if e.Tenant(id).Key != key {
				t.Fatalf("the recording's key of %s is not the edge's", id)
			}
		}
		for _, step := range file.Steps {
			step.replay(t, e)
		}
	})
}

func (step recorded) replay(t *testing.T, e *Edge) {
	t.Helper()
	body := step.Body
	if r := step.BodyRepeat; r != nil {
		body = strings.Repeat(r.Unit, r.Length/len(r.Unit)+1)[:r.Length]
	}
	r, err := http.NewRequest(step.Method, e.url+step.Path, strings.NewReader(body))
	must(t, err)
	for name, value := range step.Headers {
		r.Header[name] = []string{value} // in the case it was recorded in
	}
	resp, err := e.client.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", step.Name, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	must(t, err)
	want := step.Expect
	if resp.StatusCode != want.Status {
		t.Errorf("%s: status %d, want %d: %s", step.Name, resp.StatusCode, want.Status, clip(string(got)))
	}
	if want.Body != nil && string(got) != *want.Body {
		t.Errorf("%s: body %q, want %q", step.Name, clip(string(got)), clip(*want.Body))
	}
	if want.BodyLength != nil && len(got) != *want.BodyLength {
		t.Errorf("%s: %d bytes, want %d", step.Name, len(got), *want.BodyLength)
	}
	if sum := sha256.Sum256(got); want.BodySHA256 != "" && hex.EncodeToString(sum[:]) != want.BodySHA256 {
		t.Errorf("%s: the body's SHA-256 is %x, want %s", step.Name, sum, want.BodySHA256)
	}
}

// TestConformanceRandom replays a long random workload of two tenants.
func TestConformanceRandom(t *testing.T) {
	t.Parallel()
	var file struct {
		Steps []struct {
			Tenant   string `json:"tenant"`
			Method   string `json:"method"`
			Path     string `json:"path"`
			Body     string `json:"body"`
			Status   int    `json:"status"`
			Response string `json:"response"`
		} `json:"steps"`
	}
	mustReadJSON(t, "testdata/sq-random.json", &file)
	if len(file.Steps) != 398 {
		t.Fatalf("%d steps, want 398", len(file.Steps))
	}
	overTLSAndPlain(t, Setup{Tenants: []Tenant{{ID: "tenant-a"}, {ID: "tenant-b"}}}, func(t *testing.T, e *Edge) {
		for i, step := range file.Steps {
			got := e.Do("tok-tenant-"+step.Tenant, step.Method, step.Path, step.Body)
			if got.Status != step.Status || got.Body != step.Response {
				t.Errorf("step %d, tenant %s: %s %s: %d %q, want %d %q", i, step.Tenant, step.Method, step.Path,
					got.Status, clip(got.Body), step.Status, clip(step.Response))
			}
		}
	})
}

// overTLSAndPlain runs test against an edge that serves TLS and another, with
// data directories of its own, that serves plain HTTP.
func overTLSAndPlain(t *testing.T, setup Setup, test func(*testing.T, *Edge)) {
	t.Helper()
	for name, plain := range map[string]bool{"TLS": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			setup := setup
			setup.Plain = plain
			test(t, Start(t, setup))
		})
	}
}

func mustReadJSON(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, json.Unmarshal(data, into))
}
