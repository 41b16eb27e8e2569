package phext

import (
	"errors"
	"strings"
	"testing"
)

// TestWhereChecksum holds the reference server's recorded answers.
func TestWhereChecksum(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"abc", "354.161.678/167.145.166/886.403.150"},
		{strings.Repeat("w", 100), "402.467.632/450.148.863/953.907.890"},
		{"percent", "657.957.864/914.122.706/423.675.373"},
		{"scroll amp", "400.117.954/635.149.706/195.196.890"},
	} {
		got := WhereChecksum([]byte(tt.text))
		if got.String() != tt.want {
			t.Errorf("WhereChecksum(%.20q) = %v, want %s", tt.text, got, tt.want)
		}
		if again, err := ParseCoordinate(got.String()); err != nil || again != got {
			t.Errorf("WhereChecksum(%.20q) = %v, which is no coordinate: %v", tt.text, got, err)
		}
	}
}

func TestWhereXOR(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		limit      int
		want       string
	}{
		{"nothing", "", 0, "1.1.1/1.1.1/1.1.1"},
		{"one scroll below the limit", "abc", 100, "1.1.1/1.1.1/1.1.1"},
		{"one scroll at the origin: zeros become one", "abc", 3, "1.1.1/1.1.1/1.1.1"},
		{"one of two counts", "abc\x17\x17\x17defg", 4, "1.1.1/1.1.1/1.1.5"}, // 1^1 → 0 → 1 eight times; 1^4
		{"both count", "abc\x17\x17\x17defg", 3, "1.1.1/1.1.1/1.1.4"},        // 1^1^1 = 1; 1^1^4
		{"limit is inclusive", "\x01abcd", 4, "3.1.1/1.1.1/1.1.1"},
		{"multi-byte text counts bytes", "\x01é", 2, "3.1.1/1.1.1/1.1.1"},
	} {
		got, err := WhereXOR([]byte(tt.text), tt.limit)
		if err != nil || got.String() != tt.want {
			t.Errorf("%s: WhereXOR = %v, %v, want %s", tt.name, got, err, tt.want)
		}
	}
	var bad *TextError
	if c, err := WhereXOR([]byte(strings.Repeat("\x18", 65535)), 1); !errors.As(err, &bad) || c != (Coordinate{}) {
		t.Errorf("WhereXOR beyond 65535 = %v, %v, want a *TextError", c, err)
	}
}
