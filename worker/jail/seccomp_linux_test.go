//go:build amd64 || arm64

package jail

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict runs the filter as the kernel would.
func verdict(t *testing.T, arch, call uint32, args ...uint64) uint32 {
	t.Helper()
	program := assemble()
	raw := make([]bpf.RawInstruction, len(program))
	for i, p := range program {
		raw[i] = bpf.RawInstruction{Op: p.Code, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	instructions, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program holds unknown instructions")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel loads words of struct seccomp_data as they are, the library's
	// machine as of a packet, most significant byte first.
	words := []uint32{call, arch, 0, 0}
	for i := range 6 {
		var a uint64
		if i < len(args) {
			a = args[i]
		}
		words = append(words, uint32(a), uint32(a>>32))
	}
	var data []byte
	for _, w := range words {
		data = binary.BigEndian.AppendUint32(data, w)
	}
	n, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func TestFilter(t *testing.T) {
	const (
		allow  = uint32(unix.SECCOMP_RET_ALLOW)
		deny   = uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
		enosys = uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	)
	self, other := uint64(os.Getpid()), uint64(os.Getpid()+1)
	private, shared := uint64(unix.MAP_PRIVATE|unix.MAP_ANON), uint64(unix.MAP_SHARED)
	rw := uint64(unix.PROT_READ | unix.PROT_WRITE)
	const thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD
	for _, tt := range []struct {
		name string
		arch uint32
		call uint32
		args []uint64
		want uint32
	}{
		{"another architecture", unix.AUDIT_ARCH_I386, unix.SYS_READ, nil, deny},
		{"x32", auditArch, 0x40000000 | unix.SYS_READ, nil, deny},
		{"a call of the future", auditArch, 5000, nil, deny},
		{"socket", auditArch, unix.SYS_SOCKET, nil, deny},
		{"clone3", auditArch, unix.SYS_CLONE3, nil, enosys},
		{"fork", auditArch, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, deny},
		{"vfork", auditArch, unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_VFORK}, deny},
		{"a thread in a namespace", auditArch, unix.SYS_CLONE, []uint64{thread | unix.CLONE_NEWNET}, deny},
		{"executable memory", auditArch, unix.SYS_MMAP, []uint64{0, 1, rw | unix.PROT_EXEC, private}, deny},
		{"shared memory", auditArch, unix.SYS_MMAP, []uint64{0, 1, rw, shared | unix.MAP_ANON}, deny},
		{"a file's shared and executable", auditArch, unix.SYS_MMAP, []uint64{0, 1, unix.PROT_READ | unix.PROT_EXEC, shared}, deny},
		{"a file's shared and writable", auditArch, unix.SYS_MMAP, []uint64{0, 1, rw, shared}, deny},
		{"executable droppable", auditArch, unix.SYS_MMAP, []uint64{0, 1, rw | unix.PROT_EXEC, unix.MAP_DROPPABLE | unix.MAP_ANON}, deny},
		{"a signal to another", auditArch, unix.SYS_TGKILL, []uint64{other, other, 23}, deny},
		{"a signal to all", auditArch, unix.SYS_KILL, []uint64{^uint64(0), 9}, deny},
		{"signals for input", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_SETOWN, other}, deny},
		{"dumpable", auditArch, unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 1}, deny},

		{"read", auditArch, unix.SYS_READ, nil, allow},
		{"accept4", auditArch, unix.SYS_ACCEPT4, nil, allow},
		{"a thread", auditArch, unix.SYS_CLONE, []uint64{thread}, allow},
		{"memory", auditArch, unix.SYS_MMAP, []uint64{0, 1, rw, private}, allow},
		{"addresses", auditArch, unix.SYS_MMAP, []uint64{0, 1, unix.PROT_NONE, private | unix.MAP_FIXED}, allow},
		{"a file's shared", auditArch, unix.SYS_MMAP, []uint64{0, 1, unix.PROT_READ, shared}, allow},
		{"droppable", auditArch, unix.SYS_MMAP, []uint64{0, 1, rw, unix.MAP_DROPPABLE | unix.MAP_ANON}, allow},
		{"preemption", auditArch, unix.SYS_TGKILL, []uint64{self, self, 23}, allow},
		{"abort", auditArch, unix.SYS_KILL, []uint64{self, 6}, allow},
		{"a copy of a descriptor", auditArch, unix.SYS_FCNTL, []uint64{0, unix.F_DUPFD_CLOEXEC}, allow},
		{"a mapping's name", auditArch, unix.SYS_PRCTL, []uint64{unix.PR_SET_VMA}, allow},
	} {
		if usesCgo && tt.call == unix.SYS_PRCTL {
			continue // the C library needs it there
		}
		if got := verdict(t, tt.arch, tt.call, tt.args...); got != tt.want {
			t.Errorf("%s: verdict %#x, want %#x", tt.name, got, tt.want)
		}
	}
}
