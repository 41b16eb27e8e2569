package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/sqedge/sqedge/shared/phext"
	"github.com/sqedge/sqedge/shared/wire"
)

// Salvage is what [Repair] did.
type Salvage struct {
	Saved []string  // one line for each document of the new directory
	Left  []Finding // what is in the old directory only, and why
}

// incomplete is added to the new directory's name until it is complete.
const incomplete = ".incomplete"

// Repair makes a new data directory at out, which must not exist, from all that
// verifies in the one at path, which it does not change. Each document is a file
// with its changes from the log in it; the new log is empty and continues the
// sequence of the old one. out appears when it is complete.
func Repair(path, out string) (*Salvage, error) {
	out = filepath.Clean(out)
	o, err := openOffline(path)
	if err != nil {
		return nil, err
	}
	defer o.close()
	if err := checkOut(path, out); err != nil {
		return nil, err
	}
	r := &repair{offline: o}
	if err := o.readLog(func(Record) error { return nil }); err != nil {
		return nil, err
	}
	for _, lost := range o.lost {
		o.damage(controlFolder, lost.String()+" missing; any document may have been changed by what is")
	}
	if o.seq >= 1<<63 {
		return nil, fmt.Errorf("the log's last segment begins with record %d, which no worker ever wrote: work on a copy without it", o.seq)
	}
	names, err := o.documents()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(out+incomplete, 0o700); err != nil {
		return nil, fmt.Errorf("make the new directory (remove what an earlier repair left): %w", err)
	}
	err = r.fill(out+incomplete, names)
	if err == nil {
		err = os.Rename(out+incomplete, out)
	}
	if err != nil {
		os.RemoveAll(out + incomplete)
		return nil, fmt.Errorf("make the new directory: %w", err)
	}
	if err := syncParent(out); err != nil {
		return nil, fmt.Errorf("sync the folder of the new directory: %w", err)
	}
	return &Salvage{Saved: r.saved, Left: o.findings}, nil
}

// checkOut refuses a new directory that exists or would change the old one.
func checkOut(path, out string) error {
	if _, err := os.Lstat(out); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s exists: name a directory that does not", out), err)
	}
	old, err := os.Stat(path)
	if err != nil {
		return err
	}
	parent, err := filepath.Abs(filepath.Dir(out))
	if err == nil {
		parent, err = filepath.EvalSymlinks(parent)
	}
	if err != nil {
		return err
	}
	for {
		info, err := os.Stat(parent)
		if err != nil {
			return err
		}
		if os.SameFile(info, old) {
			return fmt.Errorf("%s lies in the old directory, which is not to be changed: name one outside", out)
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
		parent = filepath.Dir(parent)
	}
}

func syncParent(path string) error {
	f, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// repair is one under way. It writes files and no log, so that it holds one
// document at a time in memory, however many there are.
type repair struct {
	*offline
	out     directory // the new one
	control directory // its .sq
	saved   []string
}

// fill makes the new directory's content.
func (r *repair) fill(temp string, names []string) (err error) {
	if r.out, err = openDirectory(temp); err != nil {
		return err
	}
	defer r.out.f.Close()
	if r.control, err = r.out.sub(controlFolder, directory.sync); err != nil {
		return err
	}
	defer r.control.f.Close()
	w := &wal{dir: r.control}
	defer w.close()
	if err := w.begin(r.seq+1, firstAlloc); err != nil {
		return fmt.Errorf("start a log: %w", err)
	}
	// All documents get their names before conflicts are given free ones.
	var conflicts []string
	for _, name := range names {
		conflict, err := r.saveDocument(name)
		if err != nil {
			return fmt.Errorf("document %q: %w", name, err)
		}
		if conflict {
			conflicts = append(conflicts, name)
		}
	}
	for _, name := range conflicts {
		if err := r.saveConflict(name); err != nil {
			return fmt.Errorf("changes of document %q: %w", name, err)
		}
	}
	if err := r.leaveTrash(); err != nil {
		return err
	}
	if err := r.keepOwner(); err != nil {
		return err
	}
	if err := r.keepKeys(); err != nil {
		return err
	}
	return r.out.sync()
}

// saveDocument saves a document as a worker would serve it, and reports whether the
// log has changes that do not belong to its file.
func (r *repair) saveDocument(name string) (conflict bool, err error) {
	d := r.document(name)
	defer d.close()
	switch {
	case d.err != nil:
		err = r.saveScrolls(d)
	case d.served.exists():
		suffix := ""
		if d.served.modified {
			suffix = ", with changes from the log"
			if len(r.lost) > 0 && d.served.seq > r.lost[0].from {
				r.note(d.file(), fmt.Sprintf("changes after record %d were applied to it although records are missing; compare it", r.lost[0].from))
			}
		}
		err = r.save(name, d.served, suffix)
	}
	return d.orphan != nil, err
}

// saveConflict saves the changes that do not belong to a document's file.
func (r *repair) saveConflict(name string) error {
	d := r.document(name)
	defer d.close()
	free, err := r.engine.freeName(r.out, name, ".conflict-")
	if err != nil {
		return err
	}
	r.note(d.file(), fmt.Sprintf("its changes in the log do not belong to this file; they are saved as document %q", free))
	return r.save(free, d.orphan, ", changes from the log alone")
}

// save writes a document of the new directory.
func (r *repair) save(name string, c *content, suffix string) error {
	err := r.write(name, func(w io.Writer) error {
		_, err := c.writeTo(w, nil)
		return err
	})
	if err == nil {
		r.saved = append(r.saved, fmt.Sprintf("%q: %d bytes, %d scrolls%s", name+wire.DocumentExt, c.size, c.count, suffix))
	}
	return err
}

// write makes a document's file of what text writes.
func (r *repair) write(name string, text func(io.Writer) error) error {
	f, err := r.control.temp()
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	t := &tempFile{dir: r.control, f: f}
	defer t.close()
	if err := guard(func() error { return text(f) }); err != nil {
		return err
	}
	if err := syncData(f); err != nil {
		return err
	}
	if err := r.control.rename(t.name(), r.out, name+wire.DocumentExt); err != nil {
		return fmt.Errorf("rename the new file: %w", err)
	}
	t.renamed = true
	return nil
}

// saveScrolls saves the scrolls that verify of a file that does not as a whole.
func (r *repair) saveScrolls(d *offlineDocument) error {
	r.damage(d.file(), reason(d.err))
	var text *phext.TextError
	if !errors.As(d.err, &text) {
		return nil // not text, or not readable
	}
	f, err := r.engine.dir.open(d.file(), unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	id, err := identityOfFile(f)
	if err != nil {
		return err
	}
	b, err := loadBase(f, id)
	if err != nil {
		return err
	}
	defer b.release()
	var good []phext.Scroll
	var document []byte
	if err := guard(func() error {
		end := 0
		err := phext.Scan(b.data, func(at phext.Coordinate, start, stop int) {
			end = stop
			if scroll := b.data[start:stop]; utf8.Valid(scroll) {
				good = append(good, phext.Scroll{At: at, Text: scroll})
			} else {
				r.damage(d.file(), fmt.Sprintf("the scroll at %v, bytes %d to %d, is left behind", at, start, stop))
			}
		})
		if err != nil {
			r.damage(d.file(), fmt.Sprintf("all from byte %d on is left behind: %v", end, err))
		}
		document = phext.AppendDocument(nil, good)
		return nil
	}); err != nil {
		return err
	}
	err = r.write(d.name, func(w io.Writer) error {
		_, err := w.Write(document)
		return err
	})
	if err != nil {
		return err
	}
	r.saved = append(r.saved, fmt.Sprintf("%q: %d bytes, %d scrolls, what verifies of a damaged file", d.file(), len(document), len(good)))
	return nil
}

// keepKeys saves the keys of the writes that were saved, in the file and in the log.
func (r *repair) keepKeys() error {
	e := r.engine
	if e.settleKeys(); len(e.keys.receipts) == 0 {
		return nil
	}
	if _, err := writeKeys(r.control, e.keys.encode(r.seq, e.opts.now())); err != nil {
		return fmt.Errorf("write %s/%s: %w", controlFolder, keysFile, err)
	}
	return nil
}

// leaveTrash says that removed documents are left where they are.
func (r *repair) leaveTrash() error {
	id, err := r.engine.dir.stat(trashFolder)
	if err == nil && id.exists {
		r.note(trashFolder, "removed documents are not brought over")
	}
	return err
}
