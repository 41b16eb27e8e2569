//go:build race

package jail

import "golang.org/x/sys/unix"

const raceEnabled = true

// raceCalls are what the race detector and the C library under it need.
var raceCalls = []uint32{
	unix.SYS_MPROTECT, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_PRCTL, unix.SYS_PRLIMIT64,
	unix.SYS_MREMAP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_BRK,
}
