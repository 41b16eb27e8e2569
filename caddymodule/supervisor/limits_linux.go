package supervisor

import (
	"bufio"
	"bytes"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func readLimits() limits {
	var l limits
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		l.descriptors = r.Cur
	}
	threads := []uint64{readNumber("/proc/sys/kernel/threads-max"), readNumber("/proc/sys/kernel/pid_max")}
	if os.Geteuid() != 0 && unix.Getrlimit(unix.RLIMIT_NPROC, &r) == nil && r.Cur != unix.RLIM_INFINITY {
		threads = append(threads, r.Cur)
	}
	memory := []uint64{readAvailable()}
	// A group may be held by any group above it.
	for dir := groupDir(); dir != ""; dir = parentGroup(dir) {
		threads = append(threads, readNumber(dir+"/pids.max"))
		if most := readNumber(dir + "/memory.max"); most > 0 {
			// One that is full has no room, but 0 would mean not known.
			memory = append(memory, max(most-min(most, readNumber(dir+"/memory.current")), 1))
		}
	}
	l.threads, l.memory = least(threads), least(memory)
	return l
}

// least returns the least number that is known, that is, above 0.
func least(numbers []uint64) (least uint64) {
	for _, n := range numbers {
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// readNumber returns the number in a file of the kernel, or 0 where there is
// none, such as "max".
func readNumber(path string) uint64 {
	data, _ := os.ReadFile(path)
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	return n
}

// readAvailable returns the bytes that the machine can give to programs.
func readAvailable() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

const cgroupRoot = "/sys/fs/cgroup"

// groupDir returns the folder of this process's cgroup v2, or "".
func groupDir() string {
	data, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(data)) {
		if group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path.Join(cgroupRoot, group)
		}
	}
	return ""
}

func parentGroup(dir string) string {
	if len(dir) <= len(cgroupRoot) {
		return ""
	}
	return path.Dir(dir)
}
