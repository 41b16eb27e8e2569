package jail

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// arch_prctl sets a new thread's register for its thread-local storage.
var conditionalHere = []allowance{{unix.SYS_ARCH_PRCTL, []condition{{0, all, 0x1002}}}} // ARCH_SET_FS
