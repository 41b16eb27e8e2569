//go:build cgo

package jail

import "golang.org/x/sys/unix"

const usesCgo = true

// cgoCalls are what the C library needs, and the race detector above it. A worker
// is built without them; tests are not always.
var cgoCalls = []uint32{
	unix.SYS_MPROTECT, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_PRCTL, unix.SYS_PRLIMIT64,
	unix.SYS_MREMAP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_BRK,
}
