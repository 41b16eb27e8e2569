package caddymodule

import "testing"

func TestHeapMayGrowByTheFloorOrDouble(t *testing.T) {
	for _, tt := range []struct {
		live uint64
		want int
	}{
		{0, 1600}, {1 << 20, 1600}, {4 << 20, 1600}, {4<<20 + 1, 800}, {8 << 20, 800},
		{16 << 20, 400}, {33 << 20, 100}, {64 << 20, 100}, {1 << 40, 100},
	} {
		if got := fitPercent(tt.live); got != tt.want {
			t.Errorf("%d bytes: %d %%, want %d", tt.live, got, tt.want)
		}
	}
}
