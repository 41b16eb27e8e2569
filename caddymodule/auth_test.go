package caddymodule

import (
	"net/http"
	"testing"
	"time"
)

func TestClientKey(t *testing.T) {
	for _, test := range []struct {
		name          string
		authorization []string
		header        []string
		want          string
	}{
		{"none", nil, nil, ""},
		{"empty", []string{""}, nil, ""},
		{"two that disagree", []string{"Bearer tok-alpha"}, []string{"tok-beta"}, ""},
		{"two of one header that disagree", []string{"Bearer tok-alpha", "Bearer tok-beta"}, nil, ""},
		{"two X-SQ-API-Key that disagree", nil, []string{"tok-alpha", "tok-beta"}, ""},
		{"one of two empty", []string{"Bearer tok-alpha"}, []string{""}, ""},
		{"scheme alone", []string{"Bearer"}, nil, "Bearer"},
		{"another scheme stays whole", []string{"Basic dG9r"}, nil, "Basic dG9r"},

		{"bearer", []string{"Bearer tok-alpha"}, nil, "tok-alpha"},
		{"lower case", []string{"bearer tok-alpha"}, nil, "tok-alpha"},
		{"upper case, spaces", []string{"BEARER    tok-alpha   "}, nil, "tok-alpha"},
		{"bare", []string{"tok-alpha"}, nil, "tok-alpha"},
		{"X-SQ-API-Key", nil, []string{"tok-alpha"}, "tok-alpha"},
		{"two that agree", []string{"Bearer tok-alpha"}, []string{"tok-alpha"}, "tok-alpha"},
	} {
		h := http.Header{}
		if test.authorization != nil {
			h["Authorization"] = test.authorization
		}
		if test.header != nil {
			h[keyHeader] = test.header
		}
		if got := clientKey(h); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestUsageCountsByDayAndSurvivesARestart(t *testing.T) {
	root := t.TempDir()
	book := new(usageBook)
	if err := book.open(root); err != nil {
		t.Fatal(err)
	}
	evening := time.Date(2026, 3, 1, 23, 59, 59, 0, time.UTC)
	morning := evening.Add(2 * time.Second)
	for range 3 {
		book.of("acme").count(evening, 0)
	}
	book.of("acme").count(morning, 0)
	book.of("quiet") // asked for, never called
	if err := book.save(); err != nil {
		t.Fatal(err)
	}

	again := new(usageBook)
	if err := again.open(root); err != nil {
		t.Fatal(err)
	}
	again.of("acme").count(morning.Add(time.Minute), 0)
	rec := again.of("acme").record(morning.Add(time.Hour))
	if rec.Total != 5 || rec.Today != 2 || !rec.LastActive.Equal(morning.Add(time.Minute)) {
		t.Errorf("after a restart: %+v (last active %v)", rec, rec.LastActive)
	}
	if rec := again.of("acme").record(morning.Add(48 * time.Hour)); rec.Today != 0 || rec.Total != 5 {
		t.Errorf("two days later: %+v", rec)
	}
	if rec := again.of("quiet").record(morning); rec.Total != 0 || rec.LastActive != nil {
		t.Errorf("a tenant without calls: %+v", rec)
	}
}
