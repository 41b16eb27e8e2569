package wire

import (
	"strings"
	"testing"

	"github.com/sqedge/sqedge/shared/phext"
)

func TestParseAddressInvalid(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "names no tenant"},
		{"coordinate without tenant", ".1.1.1/1.1.1/1.1.1", "names no tenant"},
		{"dot without coordinate", "acme.", "coordinate is empty"},
		{"half a coordinate", "acme.1.1.1", "3 of nine numbers"},
		{"two tenants", "acme.beta.1.1.1/1.1.1/1.1.1", "'b' where the library"},
		{"two addresses", "acme.1.1.1/1.1.1/1.1.1,beta.1.1.1/1.1.1/1.1.1", "',' after the ninth number"},
		{"zero", "acme.1.1.1/1.1.1/1.1.0", "must be 1 to 65535"},
	} {
		a, err := ParseAddress(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseAddress(%q) = %v, %v, want an error with %q", tt.name, tt.in, a, err, tt.want)
		}
		if a != (Address{}) {
			t.Errorf("%s: ParseAddress(%q) = %v beside its error", tt.name, tt.in, a)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Address
		out  string
	}{
		{"acme", Address{Tenant: "acme"}, "acme"},
		{"acme.1.1.1/1.1.1/1.1.1", Address{"acme", phext.Origin, true}, "acme.1.1.1/1.1.1/1.1.1"},
		{"a-1.1.2.3;4.5.6;7.8.65535", Address{"a-1", phext.Coordinate{1, 2, 3, 4, 5, 6, 7, 8, 65535}, true}, "a-1.1.2.3/4.5.6/7.8.65535"},
		// A tenant of digits could be taken for the library, were the first dot
		// not always the tenant's.
		{"7.1.1.1/1.1.1/1.1.1", Address{"7", phext.Origin, true}, "7.1.1.1/1.1.1/1.1.1"},
	} {
		got, err := ParseAddress(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseAddress(%q) = %v, %v, want %v", tt.in, got, err, tt.want)
		}
		if s := got.String(); s != tt.out {
			t.Errorf("ParseAddress(%q).String() = %q, want %q", tt.in, s, tt.out)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"", "acme", "acme.", ".", "acme.1.1.1/1.1.1/1.1.1", "7.1.1.1;1.1.1/1.1.65535", "a.b.1.1.1/1.1.1/1.1.1", "\xff.1.1.1/1.1.1/1.1.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if a.Tenant == "" || strings.Contains(a.Tenant, ".") || !strings.HasPrefix(s, a.Tenant) {
			t.Fatalf("ParseAddress(%q) names the tenant %q", s, a.Tenant)
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("ParseAddress(%q) = %v, %v, want %v", a.String(), again, err, a)
		}
	})
}
