package wire

import (
	"net/http"
	"slices"
	"testing"
)

// TestRules holds what both sides take for granted about every rule.
func TestRules(t *testing.T) {
	for op, rule := range Rules {
		if len(rule.Methods) == 0 || slices.Contains(rule.Methods, http.MethodHead) {
			t.Errorf("%s has the methods %v: want some, and HEAD implied by GET", op, rule.Methods)
		}
		if rule.Coordinate != Never && !rule.Document {
			t.Errorf("%s takes a coordinate of no document", op)
		}
		if rule.Write && !rule.Document {
			t.Errorf("%s writes no document", op)
		}
		want := http.MethodGet
		if rule.Write || rule.Text {
			want = http.MethodPost
		}
		if got := rule.Method(); got != want {
			t.Errorf("%s goes to the worker as %s, want %s", op, got, want)
		}
	}
	for _, op := range []Op{Insert, Update, Delete, Replace, Remove} {
		if !Rules[op].Write {
			t.Errorf("%s changes data and is no write: it would carry no quota", op)
		}
	}
}
