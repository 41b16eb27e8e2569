// Package owners keeps what the edge must remember of each tenant beside
// tenants.json: the random id of its data directory, so that an emptied or
// unmounted one is not taken for a new tenant's, and the user that its worker runs
// as, so that no other tenant's ever does.
package owners

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/tenants"
)

// maxFileBytes bounds what a wrong path can cost; it is room for a million lines.
const maxFileBytes = 128 << 20

// slack is how many lines a file may have beyond twice what is known until it is
// written anew.
const slack = 1000

// entry is a line of the file and what is known of a tenant: of two lines the
// later one counts, and one that has nothing but the tenant forgets it.
type entry struct {
	Tenant string `json:"tenant"`
	ID     string `json:"id,omitempty"`  // of the data directory, see worker/engine: 32 hex digits
	UID    uint32 `json:"uid,omitempty"` // of the worker; 0 for the edge's own
}

// Book is the file and what it says. What it has recorded survives a power cut.
// All methods may be called concurrently; a nil Book knows and keeps nothing.
type Book struct {
	path string

	writing sync.Mutex // held while the file is written
	file    *os.File   // nil where it cannot be written
	size    int64      // of what was written whole

	mu     sync.RWMutex // guards what follows; never held during I/O
	known  map[string]entry
	taken  map[uint32]string // whose each uid is
	last   uint32            // uid that was given away
	fault  error
	broken bool // the file ends in a part of a line that could not be cut off
}

// Open reads the book at path, which need not exist, and forgets those tenants
// that keep does not want. A part of a line at the end, left by a crash, is
// dropped; any other fault is an error that names the line. Where the file cannot
// be written the book still says what it knows, and [Book.Fault] why it keeps
// nothing new.
func Open(path string, keep func(tenant string) bool) (*Book, error) {
	b := &Book{path: path, known: make(map[string]entry), taken: make(map[uint32]string)}
	err := b.open(keep)
	for tenant, e := range b.known {
		if other, ok := b.taken[e.UID]; ok && err == nil {
			err = fmt.Errorf("%s: %s and %s have the same uid %d: take it out of one line", path, tenant, other, e.UID)
		}
		if e.UID != 0 {
			b.taken[e.UID], b.last = tenant, max(b.last, e.UID)
		}
	}
	if err != nil {
		if b.file != nil {
			b.file.Close()
		}
		return nil, err
	}
	return b, nil
}

func (b *Book) open(keep func(string) bool) (err error) {
	const flags = unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	_, err = os.Lstat(b.path)
	fresh := errors.Is(err, fs.ErrNotExist)
	file, err := os.OpenFile(b.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|flags, 0o600)
	if err == nil {
		b.file = file
	} else {
		b.fault = fmt.Errorf("%w: %w: make the folder of tenants.json writable for the edge", ErrReadOnly, err)
		file, err = os.OpenFile(b.path, os.O_RDONLY|flags, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer file.Close()
	}
	if fresh {
		if err := syncFolder(b.path); err != nil {
			return err
		}
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var text bytes.Buffer
	if err == nil && info.Size() <= maxFileBytes {
		text.Grow(int(info.Size()) + bytes.MinRead) // or it would be copied again and again
		_, err = text.ReadFrom(io.LimitReader(file, maxFileBytes+1))
	}
	if err == nil && max(info.Size(), int64(text.Len())) > maxFileBytes {
		err = fmt.Errorf("larger than %d bytes", maxFileBytes)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.path, err)
	}
	data := text.Bytes()
	lines, whole, err := b.parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w: mend or remove the line; the directory of a tenant without one is taken as it is", b.path, err)
	}
	gone := 0
	for tenant := range b.known {
		if !keep(tenant) {
			delete(b.known, tenant)
			gone++
		}
	}
	if b.file == nil {
		return nil
	}
	b.size = int64(len(data))
	if gone > 0 || whole < len(data) || lines > 2*len(b.known)+slack {
		return b.rewrite()
	}
	return nil
}

// parse reads the lines into known. It returns how many there are, and the length
// of the text without the part of a line that a crash left at its end.
func (b *Book) parse(data []byte) (lines, whole int, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data)) // of all lines: one for each is most of the garbage
	decoder.DisallowUnknownFields()
	for line := range bytes.Lines(data) {
		lines++
		e, err := parseLine(decoder, data, whole+len(line))
		switch {
		case err != nil && line[len(line)-1] != '\n':
			return lines, whole, nil
		case err != nil:
			return lines, whole, fmt.Errorf("line %d: %w", lines, err)
		case e == (entry{Tenant: e.Tenant}):
			delete(b.known, e.Tenant)
		default:
			b.known[e.Tenant] = e
		}
		if line[len(line)-1] == '\n' {
			whole += len(line)
		}
	}
	return lines, whole, nil
}

// parseLine reads the line of data that ends at end, before which decoder stands.
func parseLine(decoder *json.Decoder, data []byte, end int) (e entry, err error) {
	if err := decoder.Decode(&e); err != nil {
		return e, fmt.Errorf("not an object of tenant, id and uid: %w", err)
	}
	switch at := int(decoder.InputOffset()); {
	case at > end:
		return e, errors.New("not an object of tenant, id and uid: it does not end with the line")
	case len(bytes.Trim(data[at:end], " \t\r\n")) > 0:
		return e, errors.New("more than one object")
	}
	if err := tenants.CheckID(e.Tenant); err != nil {
		return e, fmt.Errorf("tenant: %w", err)
	}
	if e.UID != 0 && (e.UID < MinUID || e.UID > MaxUID) {
		return e, fmt.Errorf("uid: want %d to %d", MinUID, MaxUID)
	}
	return e, checkID(e.ID)
}

func checkID(id string) error {
	if _, err := hex.DecodeString(id); err != nil || len(id) != 0 && len(id) != 32 || id != strings.ToLower(id) {
		return errors.New("id: want 32 hex digits in lower case")
	}
	return nil
}

// rewrite replaces the file by one that has each tenant once.
func (b *Book) rewrite() (err error) {
	temp := b.path + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing %s anew: %w", b.path, err)
	}
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s anew: %w", b.path, err)
	}
	var text []byte
	for _, tenant := range slices.Sorted(maps.Keys(b.known)) {
		text = appendLine(text, b.known[tenant])
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(temp, b.path)
	}
	if err != nil {
		file.Close()
		return errors.Join(fmt.Errorf("writing %s anew: %w", b.path, err), os.Remove(temp))
	}
	b.file.Close()
	b.file, b.size = file, int64(len(text))
	return syncFolder(b.path)
}

func appendLine(text []byte, e entry) []byte {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // of strings and numbers alone
	}
	return append(append(text, line...), '\n')
}

func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// Path returns where the book is kept.
func (b *Book) Path() string { return b.path }

// Fault says why nothing new is kept, or is nil.
func (b *Book) Fault() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.fault
}

// Close closes the file. Nothing is recorded any more.
func (b *Book) Close() error {
	b.writing.Lock()
	defer b.writing.Unlock()
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file = nil
	b.setFault(errClosed)
	return err
}

// ErrReadOnly is in the chain of the errors of a book that cannot be written.
var ErrReadOnly = errors.New("ids of data directories are not kept")

var errClosed = errors.New("the book of data directories is closed")

// ID returns the id of the tenant's data directory, or "" where none is known.
func (b *Book) ID(tenant string) string {
	if b == nil {
		return ""
	}
	return b.lookup(tenant).ID
}

func (b *Book) lookup(tenant string) entry {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e := b.known[tenant]
	e.Tenant = tenant
	return e
}

// SetID keeps the id of the tenant's data directory; "" has the next start take
// the directory as it is.
func (b *Book) SetID(tenant, id string) error {
	if err := checkID(id); b == nil || err != nil {
		return err
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	e := b.lookup(tenant)
	if e.ID == id {
		return nil
	}
	e.ID = id
	return b.record(e)
}

// Forget drops all that is known of the tenant if gone says that it is one no
// more; it says so while nothing else is recorded.
func (b *Book) Forget(tenant string, gone func() bool) error {
	if b == nil {
		return nil
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	if none := (entry{Tenant: tenant}); b.lookup(tenant) != none && gone() {
		return b.record(none)
	}
	return nil
}

// record appends a line and syncs it. writing is held. On error nothing is known
// that was not before.
func (b *Book) record(e entry) error {
	if b.file == nil {
		return b.Fault()
	}
	line := appendLine(nil, e)
	err := b.cut()
	if err == nil {
		_, err = b.file.Write(line)
	}
	if err == nil {
		err = b.file.Sync()
	}
	if err != nil {
		b.broken = true
		err = fmt.Errorf("recording the data directory of tenant %s: %w", e.Tenant, err)
		b.setFault(errors.Join(err, b.cut()))
		return err
	}
	b.size += int64(len(line))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = nil
	if was := b.known[e.Tenant].UID; was != e.UID {
		delete(b.taken, was)
		if e.UID != 0 {
			b.taken[e.UID], b.last = e.Tenant, e.UID
		}
	}
	if e == (entry{Tenant: e.Tenant}) {
		delete(b.known, e.Tenant)
	} else {
		b.known[e.Tenant] = e
	}
	return nil
}

// cut removes what a failed write left at the file's end.
func (b *Book) cut() error {
	if !b.broken {
		return nil
	}
	if err := b.file.Truncate(b.size); err != nil {
		return err
	}
	b.broken = false
	return nil
}

func (b *Book) setFault(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = err
}
