package api

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// TestConcurrent lets many clients insert into one scroll while others read it:
// no line is lost, doubled or torn, and no reader sees less than before.
func TestConcurrent(t *testing.T) {
	const clients, inserts = 8, 40
	w := MustServe(t, t.TempDir(), testTenant)
	group, ctx := errgroup.WithContext(t.Context())
	do := func(method, target, body string) (string, error) {
		resp, got, err := w.do(MustRequest(t, method, target, strings.NewReader(body)).WithContext(ctx))
		if err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("%s %s: %d %s", method, target, resp.StatusCode, clip(got))
		}
		return got, nil
	}
	var want []string
	for client := range clients {
		for i := range inserts {
			want = append(want, fmt.Sprintf("client %d line %d", client, i))
		}
		group.Go(func() error {
			for i := range inserts {
				if _, err := do("POST", "/insert?"+good, fmt.Sprintf("client %d line %d\n", client, i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 2 {
		group.Go(func() error {
			before := ""
			for strings.Count(before, "\n") < clients*inserts {
				now, err := do("GET", "/select?"+good, "")
				if err != nil {
					return err
				}
				if !strings.HasPrefix(now, before) || now != "" && now[len(now)-1] != '\n' {
					return fmt.Errorf("a reader saw %q and then %q", before, now)
				}
				before = now
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(w.MustGet(t, "/get?"+whole), "\n"), "\n")
	sort.Strings(got)
	sort.Strings(want)
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d lines are there, want each of %d once", len(got), len(want))
	}
}
