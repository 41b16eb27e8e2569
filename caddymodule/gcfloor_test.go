package caddymodule

import "testing"

func TestHeapMayGrowByTheFloorOrDouble(t *testing.T) {
	h := &heap{floor: 64 << 20}
	for _, tt := range []struct {
		live int64
		want int
	}{
		{0, 6400}, {1 << 20, 6400}, {4 << 20, 1600}, {4<<20 + 1024, 800}, {8 << 20, 800},
		{16 << 20, 400}, {33 << 20, 100}, {64 << 20, 100}, {1 << 40, 100},
	} {
		if got := h.fit(tt.live); got != tt.want {
			t.Errorf("%d bytes: %d %%, want %d", tt.live, got, tt.want)
		}
	}
}
