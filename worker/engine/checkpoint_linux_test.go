package engine

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// TestCheckpointOnFullDisk: a checkpoint in the background that finds no space
// is logged and made again later; writes go on meanwhile.
func TestCheckpointOnFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("sq", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	MustWriteFile(t, dir, "a.phext", string(bytes.Repeat([]byte("a"), 1<<20)))
	failed, done := make(chan zapcore.Entry, 10), make(chan struct{}, 10)
	opts := options(dir)
	opts.idle = time.Millisecond
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.WarnLevel)
	opts.Logger = zap.New(zapcore.RegisterHooks(core, func(entry zapcore.Entry) error { failed <- entry; return nil }))
	opts.ObserveCheckpoint = func(time.Duration) { done <- struct{}{} }
	e := MustOpenWith(t, opts)

	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	MustAppend(t, e, "a", origin, "+")
	if got := (<-failed).Message; got != "checkpoint failed; the changes stay in the log" {
		t.Fatalf("logged %q", got)
	}
	MustAppend(t, e, "a", origin, "+")

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for early := true; early; runtime.Gosched() {
		e.mu.Lock()
		if d := e.docs["a"]; !d.retry.IsZero() { // the checkpointer means to wait a minute
			d.retry, early = time.Now(), false
		}
		e.mu.Unlock()
	}
	notify(e.kick)
	<-done
	if got := MustReadFile(t, dir, "a.phext"); !bytes.HasSuffix(got, []byte("a++")) {
		t.Errorf("the file ends with %q", got[len(got)-5:])
	}
}
