package e2e

import (
	"net/http"
	"testing"
)

// TestAnotherHostNameIsRefused: by itself Caddy answers an empty 200, which a
// client would take for a write that was made.
func TestAnotherHostNameIsRefused(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	r, err := http.NewRequest("POST", e.url+"/insert?p=notes&c=1.1.1/1.1.1/1.1.1&s=lost", nil)
	must(t, err)
	r.Host = "phext.example"
	r.Header.Set("Authorization", "Bearer tok-alpha")
	resp, err := e.client.Do(r)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("status %d, want 421", resp.StatusCode)
	}
}

// TestHandlersBehindSqAuthKnowTheTenant puts a handler of Caddy's own between
// authentication and the gateway, where a rate limiter would stand.
func TestHandlersBehindSqAuthKnowTheTenant(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true, Config: `{
	admin {$SQ_CADDY_ADMIN}
	default_bind {$SQ_BIND}
	sq {
		config {$SQ_CONFIG}
	}
}
{$SQ_SITE} {
	route {
		sq_auth
		header X-Seen "[{http.auth.user.id}]"
		sq_admin
		sq
	}
}
`})
	const unset = "[{http.auth.user.id}]" // Caddy leaves a placeholder that nobody set
	for _, test := range []struct {
		key, method, path string
		status            int
		seen              string
	}{
		{"", "GET", "/toc?p=notes", 401, ""},
		{"tok-nobody", "GET", "/toc?p=notes", 401, ""},
		{adminKey, "GET", "/toc?p=notes", 403, ""},
		{"tok-alpha", "GET", "/toc?p=notes", 200, "[alpha]"},
		{"tok-beta", "GET", "/toc?p=notes", 200, "[beta]"},
		{"tok-alpha", "GET", "/nope", 404, "[alpha]"},
		{"", "OPTIONS", "/toc", 204, unset},
		{"", "GET", "/healthz", 200, unset},
		{adminKey, "GET", "/api/v2/admin/tenants", 200, unset},
		{"tok-alpha", "GET", "/api/v2/admin/tenants", 403, unset},
	} {
		got := e.Do(test.key, test.method, test.path, "")
		if got.Status != test.status || got.Header.Get("X-Seen") != test.seen {
			t.Errorf("%s %s with %q: %d, seen %q, want %d, %q", test.method, test.path, test.key, got.Status, got.Header.Get("X-Seen"), test.status, test.seen)
		}
		if got.Status == 401 && got.Header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s %s: 401 without WWW-Authenticate", test.method, test.path)
		}
	}
}
