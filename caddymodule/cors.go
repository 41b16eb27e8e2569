package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// secureHeaders sets what every answer carries. A later handler or the worker
// may not loosen it.
func (a *App) secureHeaders(h http.Header, r *http.Request) {
	// One allocation for all; who appends to a value gets memory of his own.
	v := &[...]string{"no-store", "nosniff", "ETag, SQ-Seq, SQ-Error, SQ-Replayed, Retry-After, RateLimit, RateLimit-Policy", "*"}
	h["Cache-Control"] = v[0:1:1]
	h["X-Content-Type-Options"] = v[1:2:2]
	h["Access-Control-Expose-Headers"] = v[2:3:3]
	if len(a.CORSOrigins) == 0 || slices.Contains(a.CORSOrigins, "*") {
		h["Access-Control-Allow-Origin"] = v[3:4:4]
		return
	}
	h.Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); slices.Contains(a.CORSOrigins, origin) {
		h["Access-Control-Allow-Origin"] = []string{origin}
	}
}

// preflight answers OPTIONS, which browsers send without a key.
func preflight(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Authorization, X-SQ-API-Key, Content-Type, Accept, If-Match, If-None-Match, Idempotency-Key")
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
}

// checkOrigin refuses what a browser would never send as an Origin.
func checkOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Host == "" || u.String() != u.Scheme+"://"+u.Host {
		return fmt.Errorf("%q is no origin: want scheme and host, such as https://app.example.com, or *", origin)
	}
	return nil
}
