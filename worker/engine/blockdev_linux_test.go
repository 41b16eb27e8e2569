package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// recorder is a disk with a volatile cache, as a file that a loop device lies on.
// It keeps a journal of what it was told, in which the writers' acknowledgements
// stand, too.
//
// An event is noted while whoever caused it still waits. So a write that was
// complete for the kernel when it asked for a flush stands before the flush began,
// and a flush that an acknowledgement had to wait for ended before that line: a
// crash that keeps what the flushes before it cover breaks no promise of a disk.
// Were a flush not passed down to here, no acknowledged write would survive.
type recorder struct {
	fs.Inode

	mu      sync.Mutex
	image   []byte // with all that was written
	journal []event
}

// event is a write, the end of a flush, or a line of the writing process.
type event struct {
	off     int64
	data    []byte
	flushed int // the writes before this event are durable from here on
	line    string
}

var (
	_ fs.NodeOnAdder   = (*recorderRoot)(nil)
	_ fs.NodeGetattrer = (*recorder)(nil)
	_ fs.NodeOpener    = (*recorder)(nil)
	_ fs.NodeReader    = (*recorder)(nil)
	_ fs.NodeWriter    = (*recorder)(nil)
	_ fs.NodeFsyncer   = (*recorder)(nil)
)

// recorderRoot is the folder that the recorder is in.
type recorderRoot struct {
	fs.Inode
	disk *recorder
}

func (r *recorderRoot) OnAdd(ctx context.Context) {
	r.AddChild("disk", r.NewPersistentInode(ctx, r.disk, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}

func (d *recorder) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, uint64(len(d.image))
	return 0
}

// Open keeps the kernel from caching the file: nothing stands between the loop
// device and the journal.
func (d *recorder) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (d *recorder) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := copy(dest, d.image[min(off, int64(len(d.image))):])
	return fuse.ReadResultData(dest[:n]), 0
}

func (d *recorder) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if off+int64(len(data)) > int64(len(d.image)) {
		return 0, syscall.ENOSPC
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.image[off:], data)
	d.journal = append(d.journal, event{off: off, data: slices.Clone(data)})
	return uint32(len(data)), 0
}

// Fsync is the disk's flush. It takes a while, in which other writes arrive.
func (d *recorder) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	before := d.length()
	time.Sleep(100 * time.Microsecond)
	d.note(event{flushed: before})
	return 0
}

func (d *recorder) length() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.journal)
}

func (d *recorder) note(e event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.journal = append(d.journal, e)
}

// MustServe makes the recorder the file "disk" of a file system.
func (d *recorder) MustServe(t *testing.T) *mount {
	t.Helper()
	// The library would let children inherit the descriptor; should this process
	// die, theirs would keep requests waiting that nobody answers.
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/fuse: %v", err)
	}
	m, err := mountNew("fuse", [2]string{"fd", fmt.Sprint(dev)}, [2]string{"rootmode", "40000"},
		[2]string{"user_id", "0"}, [2]string{"group_id", "0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.close() })
	server, err := fuse.NewServer(fs.NewNodeFS(&recorderRoot{disk: d}, nil), fmt.Sprint("/dev/fd/", dev), nil)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	return m
}
