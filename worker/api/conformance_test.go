package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// recorded is one step of the reference server's recordings, in either file's
// form.
type recorded struct {
	Name, Method, Path, Body string
	Headers                  map[string]string
	BodyRepeat               struct {
		Unit   string
		Length int
	} `json:"body_repeat"`
	Expect struct {
		Status     int
		Body       *string
		BodySHA256 string `json:"body_sha256"`
		BodyLength int    `json:"body_length"`
	}

	Tenant   string
	Status   int
	Response *string
}

// MustTranslate makes of a public request what the edge makes of it.
func MustTranslate(t *testing.T, s recorded, tenant string) (method, target, body string) {
	t.Helper()
	path, query, _ := strings.Cut(s.Path, "?")
	op := wire.Op(strings.TrimPrefix(path, "/api/v2/"))
	address, text := wire.Address{Tenant: tenant}, ""
	out := url.Values{}
	if wire.Rules[op].Document {
		out.Set(wire.ParamDocument, wire.DefaultDocument)
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		value, err := url.QueryUnescape(value)
		if err != nil {
			t.Fatalf("%s: %v", s.Path, err)
		}
		switch name {
		case "c":
			if address.Coordinate, err = phext.ParseCoordinate(value); err != nil {
				t.Fatalf("%s: %v", s.Path, err)
			}
			address.HasCoordinate = true
		case "s", "text", "content":
			text = value
		case "":
		default:
			out.Set(name, value)
		}
	}
	out.Set(wire.ParamAddress, address.String())
	if s.Method == http.MethodPost && s.Body != "" {
		text = s.Body
	}
	return wire.Rules[op].Method(), "/" + string(op) + "?" + out.Encode(), text
}

// TestConformance replays what the reference server answered.
func TestConformance(t *testing.T) {
	for _, file := range []string{"sq-http.json", "sq-random.json"} {
		t.Run(file, func(t *testing.T) {
			data, err := os.ReadFile("testdata/" + file)
			if err != nil {
				t.Fatal(err)
			}
			var recording struct {
				Keys  map[string]string
				Steps []recorded
			}
			if err := json.Unmarshal(data, &recording); err != nil {
				t.Fatal(err)
			}
			workers := map[string]*worker{}
			replayed := 0
			for i, s := range recording.Steps {
				tenant := s.Tenant
				if tenant == "" {
					tenant = recording.Keys[strings.TrimPrefix(s.Headers["Authorization"], "Bearer ")]
				}
				if tenant == "" || s.Expect.Status == http.StatusUnauthorized {
					continue // is about keys, which a worker never sees
				}
				if workers[tenant] == nil {
					workers[tenant] = MustServe(t, t.TempDir(), tenant)
				}
				if n := s.BodyRepeat.Length; n > 0 {
					s.Body = strings.Repeat(s.BodyRepeat.Unit, n/len(s.BodyRepeat.Unit))
				}
				if s.Response == nil {
					s.Status, s.Response = s.Expect.Status, s.Expect.Body
				}

				method, target, body := MustTranslate(t, s, tenant)
				resp, got := workers[tenant].MustDo(t, method, target, body)
				replayed++
				if resp.StatusCode != s.Status || s.Response != nil && got != *s.Response {
					t.Errorf("step %d %s: %s %s: %d %s, recorded %d %s", i, s.Name, method, target, resp.StatusCode, clip(got), s.Status, clip(*s.Response))
				}
				if want := s.Expect.BodySHA256; want != "" {
					sum := sha256.Sum256([]byte(got))
					if hex.EncodeToString(sum[:]) != want || len(got) != s.Expect.BodyLength {
						t.Errorf("step %d %s: %d bytes that hash otherwise than recorded", i, s.Name, len(got))
					}
				}
			}
			if replayed < 95 || len(workers) != 2 {
				t.Errorf("replayed %d steps on %d tenants: the recording is not read rightly", replayed, len(workers))
			}
		})
	}
}
