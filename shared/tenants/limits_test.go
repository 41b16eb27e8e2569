package tenants

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sqedge/sqedge/shared/wire"
)

func TestParseLimitsInvalid(t *testing.T) {
	const a = `"id": "a", "api_key": "key-of-a", "data_dir": "/d/a", "limits": ` // its value begins at column 67
	const names = "tenants[0].limits has a member that is no limit: it may have requests_per_second, burst, requests_per_day, " +
		"concurrent_requests, open_streams, max_scroll_bytes, max_document_bytes, memory_mb, cpu_weight"
	const rate = "tenants[0].limits.requests_per_second must be 0 (no limit) or a whole number from 1 to 1000000"
	for _, test := range []struct {
		name, limits string
		line, column int
		message      string
	}{
		{"number", `5`, 2, 67, "tenants[0].limits must be an object, not a number"},
		{"null", `null`, 2, 67, "tenants[0].limits must be an object, not null"},
		{"array", `[]`, 2, 67, "tenants[0].limits must be an object, not an array"},
		{"unknown", "{\n  \"rps\": 5}", 3, 3, names},
		{"unknown behind a known one", `{"burst": 1, "Burst": 5}`, 2, 80, names},
		{"twice", `{"burst": 1, "burst": 5}`, 2, 80, "tenants[0].limits has two members of this name"},
		{"string", `{"requests_per_second": "5"}`, 2, 91, rate},
		{"null limit", `{"requests_per_second": null}`, 2, 91, rate},
		{"negative", `{"requests_per_second": -1}`, 2, 91, rate},
		{"fraction", `{"requests_per_second": 0.5}`, 2, 91, rate},
		{"exponent", `{"requests_per_second": 1e2}`, 2, 91, rate},
		{"above", `{"requests_per_second": 1000001}`, 2, 91, rate},
		{"beyond 64 bits", `{"requests_per_second": 99999999999999999999}`, 2, 91, rate},
		{"burst alone", `{"burst": 5}`, 2, 77, "tenants[0].limits: burst needs requests_per_second beside it"},
		{"burst of no rate", "{\"requests_per_second\": 0,\n\"burst\": 5}", 3, 10, "tenants[0].limits: burst needs requests_per_second beside it"},
		{"memory below", `{"memory_mb": 7}`, 2, 81, "tenants[0].limits.memory_mb must be 0 (no limit) or a whole number from 8 to 1048576"},
		{"weight above", `{"cpu_weight": 10001}`, 2, 82, "tenants[0].limits.cpu_weight must be 0 (no limit) or a whole number from 1 to 10000"},
		{"scroll above what a worker takes", `{"max_scroll_bytes": 268435457}`, 2, 88, "tenants[0].limits.max_scroll_bytes must be 0 (no limit) or a whole number from 1 to 268435456"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(one(a + test.limits)))
			var got *FileError
			if !errors.As(err, &got) {
				t.Fatalf("error is %v, want a *FileError", err)
			}
			if want := fmt.Sprintf("line %d, column %d: %s", test.line, test.column, test.message); got.Error() != want {
				t.Errorf("error is\n\t%v\nwant\n\t%s", got, want)
			}
		})
	}
}

func TestParseLimits(t *testing.T) {
	r := MustParse(t, two(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/a", "limits": {}`,
		`"id": "b", "api_key": "key-of-b", "data_dir": "/d/b", "limits": {"requests_per_second": 50, "burst": 100, "requests_per_day": 0,
		"concurrent_requests": 16, "open_streams": 4, "max_scroll_bytes": 1048576, "max_document_bytes": 17179869184, "memory_mb": 256, "cpu_weight": 10000}`))
	if got := r.ByID("a").Limits; got != (Limits{}) {
		t.Errorf("no limits are %+v", got)
	}
	want := Limits{50, 100, Unlimited, 16, 4, 1048576, 17179869184, 256, 10000}
	if got := r.ByID("b").Limits; got != want {
		t.Errorf("limits are %+v, want %+v", got, want)
	}
	// A change of a limit alone is a change, which the edge must be told.
	other := MustParse(t, two(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/a", "limits": {"memory_mb": 16}`, `"id": "b", "api_key": "key-of-b", "data_dir": "/d/b"`))
	if same := MustParse(t, two(`"id": "a", "api_key": "key-of-a", "data_dir": "/d/a"`, `"id": "b", "api_key": "key-of-b", "data_dir": "/d/b"`)); same.equal(other) {
		t.Error("a registry with another limit is equal")
	}
}

func TestLimitsCheck(t *testing.T) {
	for _, test := range []struct {
		limits Limits
		want   string
	}{
		{Limits{RequestsPerSecond: -1}, "requests_per_second must be 0 (no limit) or a whole number from 1 to 1000000"},
		{Limits{MemoryMB: 1}, "memory_mb must be 0 (no limit) or a whole number from 8 to 1048576"},
		{Limits{Burst: 1}, "burst needs requests_per_second beside it"},
	} {
		if err := test.limits.Check(); err == nil || err.Error() != test.want {
			t.Errorf("%+v: %v, want %s", test.limits, err, test.want)
		}
	}
	if err := (&Limits{RequestsPerSecond: 1, Burst: 1_000_000}).Check(); err != nil {
		t.Error(err)
	}
}

// TestLimitsOr resolves each limit by itself, against a default and without.
func TestLimitsOr(t *testing.T) {
	var defaults Limits
	for i, rule := range LimitRules {
		*rule.Value(&defaults) = int64(1000 + i)
	}
	none := Limits{MaxScroll: wire.MaxText, MaxDocument: wire.MaxDocument} // what a worker takes bounds these
	for i, rule := range LimitRules {
		for _, test := range []struct {
			own, with, without int64
		}{
			{0, int64(1000 + i), *rule.Value(&none)},
			{Unlimited, *rule.Value(&none), *rule.Value(&none)},
			{7, 7, 7},
		} {
			if rule.Name == "burst" && test.own != 7 {
				continue // see below
			}
			var own Limits
			*rule.Value(&own) = test.own
			if got := own.Or(defaults); *rule.Value(&got) != test.with {
				t.Errorf("%s %d with a default is %d, want %d", rule.Name, test.own, *rule.Value(&got), test.with)
			}
			if got := own.Or(Limits{}); *rule.Value(&got) != test.without {
				t.Errorf("%s %d without a default is %d, want %d", rule.Name, test.own, *rule.Value(&got), test.without)
			}
		}
	}
	for _, test := range []struct {
		name              string
		own, defaults     Limits
		perSecond, atOnce int64
	}{
		{"one second's worth", Limits{}, Limits{RequestsPerSecond: 5}, 5, 5},
		{"the default's", Limits{}, Limits{RequestsPerSecond: 5, Burst: 50}, 5, 50},
		{"a rate of its own takes no burst of the default", Limits{RequestsPerSecond: 9}, Limits{RequestsPerSecond: 5, Burst: 50}, 9, 9},
		{"both its own", Limits{RequestsPerSecond: 9, Burst: 90}, Limits{RequestsPerSecond: 5, Burst: 50}, 9, 90},
		{"none", Limits{RequestsPerSecond: Unlimited}, Limits{RequestsPerSecond: 5, Burst: 50}, 0, 0},
	} {
		if got := test.own.Or(test.defaults); got.RequestsPerSecond != test.perSecond || got.Burst != test.atOnce {
			t.Errorf("%s: %d a second, %d at once, want %d and %d", test.name, got.RequestsPerSecond, got.Burst, test.perSecond, test.atOnce)
		}
	}
}
