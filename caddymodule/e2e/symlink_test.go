package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sqedge/sqedge/shared/wire"
)

// symlink plants a link.
func symlink(t *testing.T, to, at string) {
	t.Helper()
	must(t, os.Symlink(to, at))
}

// touchEverything asks every operation for a document of alpha's, and returns
// the answers.
func (b *besieged) touchEverything(document string) map[string]Reply {
	replies := make(map[string]Reply)
	for op, rule := range wire.Rules {
		path := "/" + string(op) + "?p=" + document
		switch op {
		case wire.Download, wire.Replace, wire.Remove:
			path = "/documents/" + document
		}
		if rule.Coordinate == wire.Required {
			path += "&c=" + origin
		}
		method := rule.Methods[0]
		body := "attack"
		if op == wire.Delta {
			body = "" // asks for everything
		}
		replies[string(op)] = b.Do("tok-alpha", method, path, body)
	}
	return replies
}

// wantUnserved checks the answer to an operation on a document whose file is
// none: a conflict with what the data directory holds, which somebody must put
// right there.
func (b *besieged) wantUnserved(t *testing.T, document, op string, reply Reply) {
	t.Helper()
	if rule := wire.Rules[wire.Op(op)]; !rule.Document || wire.Op(op) == wire.Where {
		return
	}
	want := fmt.Sprintf("document %q is not a regular file in the data directory, and no link is followed", document)
	if wire.Op(op) == wire.Delta {
		reply.Body = reply.Header.Get(wire.HeaderError)
	}
	if method := wire.Rules[wire.Op(op)].Methods[0]; reply.Status != 409 || reply.Body != want {
		t.Errorf("%s %s of %s: %d %q, want 409 %q", method, op, document, reply.Status, clip(reply.Body), want)
	}
}

// TestIsolationFromWhatIsPlanted: in alpha's data directory there are links that
// lead to beta's files, to a file that beta does not have yet and to beta's
// whole directory, a pipe, which must not hang the worker, and a folder.
func TestIsolationFromWhatIsPlanted(t *testing.T) {
	t.Parallel()
	b := besiege(t, func(alpha, beta string) {
		symlink(t, filepath.Join(beta, canaryDocument+".phext"), filepath.Join(alpha, "absolute.phext"))
		symlink(t, "../beta/"+canaryDocument+".phext", filepath.Join(alpha, "relative.phext"))
		symlink(t, "../beta/new.phext", filepath.Join(alpha, "dangling.phext"))
		symlink(t, "../beta", filepath.Join(alpha, "directory.phext"))
		symlink(t, "relative.phext", filepath.Join(alpha, "chain.phext"))
		must(t, syscall.Mkfifo(filepath.Join(alpha, "pipe.phext"), 0o600))
		must(t, os.Mkdir(filepath.Join(alpha, "folder.phext"), 0o700))
		must(t, syscall.Mknod(filepath.Join(alpha, "socket.phext"), syscall.S_IFSOCK|0o600, 0))
	})
	for _, name := range []string{"absolute", "relative", "dangling", "directory", "chain", "pipe", "folder", "socket"} {
		for op, reply := range b.touchEverything(name) {
			b.wantCalm(t, op+" of "+name, reply)
			b.wantUnserved(t, name, op, reply)
		}
	}
	b.Want("tok-alpha", "POST", "/insert?p=own&c="+origin, "alpha's", 200, "Inserted 7 bytes")
	b.wantUnharmed(t)
	if got := b.mustFile("alpha", "own.phext"); got != "alpha's" {
		t.Errorf("beside what was planted alpha's own document holds %q", got)
	}
}

// TestIsolationFromSymlinksPlantedWhileServed replaces a document that the
// worker has open and changed by a link to beta's, just before its checkpoint.
func TestIsolationFromSymlinksPlantedWhileServed(t *testing.T) {
	t.Parallel()
	b := besiege(t, nil)
	b.Want("tok-alpha", "PUT", "/documents/doc", "alpha's", 200, "Replaced doc.phext: 7 bytes")
	file := filepath.Join(b.DataRoot(), "alpha", "doc.phext")
	b.Want("tok-alpha", "GET", "/get?p=doc", "", 200, "alpha's")
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	symlink(t, "../beta/"+canaryDocument+".phext", file)
	for op, reply := range b.touchEverything("doc") {
		b.wantCalm(t, op, reply)
		// What only reads gets alpha's own, which is open; all that looks at the
		// file, to change or load it, finds the link.
		if looks := wire.Rules[wire.Op(op)].Write || wire.Op(op) == wire.Load; looks && reply.Status != 409 {
			t.Errorf("%s: %d %q, want 409", op, reply.Status, clip(reply.Body))
		}
	}
	b.wantUnharmed(t)
}

// TestIsolationFromLinkedControlFolder: the worker must not work with beta's
// log, and serves nothing until the link is gone.
func TestIsolationFromLinkedControlFolder(t *testing.T) {
	t.Parallel()
	b := besiege(t, func(alpha, beta string) {
		must(t, os.RemoveAll(filepath.Join(alpha, ".sq")))
		symlink(t, "../beta/.sq", filepath.Join(alpha, ".sq"))
	})
	// Without beta's worker, whose lock would keep alpha's out anyway.
	b.Quit()
	b.Boot()
	for op, reply := range b.touchEverything("own") {
		b.wantCalm(t, op, reply)
		if reply.Status != 409 || reply.Header.Get("Retry-After") != "" {
			t.Errorf("%s: %d %q, want 409, which trying again does not help", op, reply.Status, reply.Body)
		}
	}
	// Not a process for each request: the edge backs off.
	if starts := b.Metric("sq_worker_starts_total"); starts < 2 || starts > 8 { // one is beta's
		t.Errorf("workers were started %v times for %d requests", starts, len(wire.Rules))
	}
	must(t, os.Remove(filepath.Join(b.DataRoot(), "alpha", ".sq")))
	b.AwaitStatus("tok-alpha", 200)
	b.Want("tok-alpha", "POST", "/insert?p=own&c="+origin, "alpha's", 200, "Inserted 7 bytes")
	b.wantUnharmed(t)
}

// TestIsolationFromLinkedTrash: a removed document must not land at beta's, nor
// be lost.
func TestIsolationFromLinkedTrash(t *testing.T) {
	t.Parallel()
	b := besiege(t, func(alpha, beta string) {
		must(t, os.WriteFile(filepath.Join(alpha, "doc.phext"), []byte("alpha's"), 0o600))
		symlink(t, "../beta", filepath.Join(alpha, ".trash"))
	})
	got := b.Do("tok-alpha", "DELETE", "/documents/doc", "")
	b.wantCalm(t, "DELETE", got)
	if got.Status != 409 || !strings.HasPrefix(got.Body, "nothing was done: ") {
		t.Errorf("DELETE: %d %q, want 409", got.Status, got.Body)
	}
	b.wantUnharmed(t)
	if got := b.mustFile("alpha", "doc.phext"); got != "alpha's" {
		t.Errorf("the document holds %q", got)
	}
}

// testTheRunDirectoryIsTheEdgesAlone: the way around the edge is the sockets.
func testTheRunDirectoryIsTheEdgesAlone(t *testing.T, b *besieged) {
	info, err := os.Stat(b.RunDir())
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the run directory has mode %v", info.Mode())
	}
	sockets := 0
	entries, err := os.ReadDir(b.RunDir())
	must(t, err)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && strings.HasSuffix(entry.Name(), ".sock") {
			sockets++
			if info.Mode() != os.ModeSocket|0o600 {
				t.Errorf("%s has mode %v", entry.Name(), info.Mode())
			}
		}
	}
	if sockets == 0 {
		t.Error("no socket found")
	}
}
