package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// diskSize is that of the file systems that lose their power, in bytes: more
// than the writers' log and documents ever take.
const diskSize = 128 << 20

// needDisks skips a test where it cannot mount a file system of its own.
func needDisks(t *testing.T) {
	t.Helper()
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.EPERM) {
		t.Skip("only root can mount a disk to cut its power")
	}
	if err != nil {
		t.Fatalf("fsopen ext4: %v", err)
	}
	unix.Close(fs)
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("mkfs.ext4 is not installed: apt-get install e2fsprogs")
	}
	for _, device := range []string{"/dev/loop-control", "/dev/fuse"} {
		if _, err := os.Stat(device); err != nil {
			t.Skip("this machine gives no " + device)
		}
	}
}

// MustMakeImage makes a file in memory, for what a disk holds. It has no name, and
// so goes with this process; path names it, for this process and its children.
func MustMakeImage(t *testing.T) (f *os.File, path string) {
	t.Helper()
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatalf("memfd_create: %v", err)
	}
	f = os.NewFile(uintptr(fd), "disk")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(diskSize); err != nil {
		t.Fatal(err)
	}
	return f, descriptorPath(fd)
}

// descriptorPath names an open file of this process.
func descriptorPath(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }

// MustMakeDisk makes an image of an ext4 with an empty folder "data".
func MustMakeDisk(t *testing.T) (f *os.File, path string) {
	t.Helper()
	f, path = MustMakeImage(t)
	// Blocks as on a large disk, and nothing left to be initialized later.
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0",
		"-E", "lazy_itable_init=0,lazy_journal_init=0", path).CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	m := MustMount(t, path)
	if err := os.Mkdir(m.path("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.MustClose(t)
	return f, path
}

// mount is a file system without a place in the directory tree. It is reached
// through its descriptor alone, and so goes with the process that holds it, as
// its loop device does, however the process ends.
type mount struct {
	fd   int
	loop string // the loop device it is on, in /sys; empty if it is on none
	use  []byte // counts who had the device
}

// path names a file of the mount, for this process and its children.
func (m *mount) path(name string) string {
	return filepath.Join(descriptorPath(m.fd), name)
}

// mountNew mounts a file system that has no place, with options as key and value.
func mountNew(kind string, options ...[2]string) (*mount, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", kind, err)
	}
	defer unix.Close(fs)
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("mount option %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount %s: %w", kind, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fsmount: %w", err)
	}
	return &mount{fd: fd}, nil
}

// MustMount mounts the ext4 of an image, which recovers its journal.
func MustMount(t *testing.T, image string) *mount {
	t.Helper()
	loop, fd, err := attach(image)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd) // the mount keeps the device
	m, err := mountNew("ext4", [2]string{"source", "/dev/" + loop})
	if err != nil {
		t.Fatal(err)
	}
	m.loop = "/sys/block/" + loop
	m.use = MustReadFile(t, m.loop, "diskseq")
	t.Cleanup(func() { m.close() })
	return m
}

// attach makes a loop device of an image, which goes when nobody uses it. It keeps
// no cache of its own, and passes flushes on to the image.
func attach(image string) (loop string, fd int, err error) {
	// Not os.Open: the runtime would poll the file, and this process may be the
	// one that serves it.
	backing, err := unix.Open(image, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", 0, fmt.Errorf("open the image: %w", err)
	}
	defer unix.Close(backing)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", 0, fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(control)
	for {
		n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", 0, fmt.Errorf("find a free loop device: %w", err)
		}
		loop = fmt.Sprint("loop", n)
		if fd, err = unix.Open("/dev/"+loop, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return "", 0, fmt.Errorf("open %s: %w", loop, err)
		}
		err = unix.IoctlLoopConfigure(fd, &unix.LoopConfig{
			Fd:   uint32(backing),
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO},
		})
		if err == nil {
			return loop, fd, nil
		}
		unix.Close(fd)
		if !errors.Is(err, unix.EBUSY) { // somebody was faster
			return "", 0, fmt.Errorf("attach %s: %w", loop, err)
		}
	}
}

// close unmounts, and waits until the loop device has let go of the image.
func (m *mount) close() error {
	if m.fd < 0 {
		return nil
	}
	unix.Close(m.fd)
	m.fd = -1
	if m.loop == "" {
		return nil
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		_, err := os.Stat(filepath.Join(m.loop, "loop"))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		use, err := os.ReadFile(filepath.Join(m.loop, "diskseq"))
		if err == nil && !bytes.Equal(use, m.use) {
			return nil // somebody else has it already
		}
	}
	return fmt.Errorf("%s is still in use", m.loop)
}

// MustClose unmounts.
func (m *mount) MustClose(t *testing.T) {
	t.Helper()
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
}

// root opens the root folder.
func (m *mount) root() (int, error) {
	return unix.Open(m.path("."), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
