package jail

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Beneath the data directory there are regular files that cannot run, and of all
// else every right that the kernel knows is denied.
func TestHandled(t *testing.T) {
	if allowedBeneath&(unix.LANDLOCK_ACCESS_FS_EXECUTE|unix.LANDLOCK_ACCESS_FS_MAKE_SOCK|unix.LANDLOCK_ACCESS_FS_MAKE_SYM|
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR|unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK|unix.LANDLOCK_ACCESS_FS_MAKE_FIFO|unix.LANDLOCK_ACCESS_FS_IOCTL_DEV) != 0 {
		t.Errorf("beneath the data directory more is allowed than regular files: %#x", allowedBeneath)
	}
	// By the kernel's documentation, how many rights each ABI knows.
	for abi, want := range map[int]unix.LandlockRulesetAttr{
		1:  {Handled_access_fs: 1<<13 - 1},
		2:  {Handled_access_fs: 1<<14 - 1},
		3:  {Handled_access_fs: 1<<15 - 1},
		4:  {Handled_access_fs: 1<<15 - 1, Handled_access_net: 1<<2 - 1},
		5:  {Handled_access_fs: 1<<16 - 1, Handled_access_net: 1<<2 - 1},
		6:  {Handled_access_fs: 1<<16 - 1, Handled_access_net: 1<<2 - 1, Scoped: 1<<2 - 1},
		7:  {Handled_access_fs: 1<<16 - 1, Handled_access_net: 1<<2 - 1, Scoped: 1<<2 - 1},
		9:  {Handled_access_fs: 1<<17 - 1, Handled_access_net: 1<<2 - 1, Scoped: 1<<2 - 1},
		10: {Handled_access_fs: 1<<17 - 1, Handled_access_net: 1<<4 - 1, Scoped: 1<<2 - 1},
	} {
		if got := handled(abi); got != want {
			t.Errorf("ABI %d: %+v, want %+v", abi, got, want)
		}
	}
}
