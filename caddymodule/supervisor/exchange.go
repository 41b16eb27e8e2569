package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// smallBody is the longest body, in bytes, that is read before the request is
// sent: it goes out in one write with the header, and a slow client of it holds
// no connection to the worker.
const smallBody = 64 << 10

// exchange is one request on one connection.
//
// It is our own and not net/http's Transport for three reasons: the calling
// goroutine itself writes and reads, which takes a good part of the edge's CPU
// time off each request; it is known whether a byte was written, so nothing is
// ever sent twice; and a worker's death ends a request whose client is slow.
type exchange struct {
	g    *generation
	conn *conn
	stop func() bool // ends the watch on the request's context
	sent bool        // a byte may have reached the worker
	use  bool        // whether it keeps the worker awake
	ctx  context.Context

	timeout  time.Duration // for the answer's header
	deadline time.Time     // of it, where the body was small

	upload *upload // of a body that was not small, or nil
	once   sync.Once

	answer Answer
	body   answerBody // of answer, unless that has none
}

// upload is a body on its way to the worker while its answer is awaited.
type upload struct {
	done  chan struct{}
	fault error // of reading the body; valid once done is closed
	err   error // of reading or writing it; likewise
}

// start writes the request. body is what was read of it ahead; the rest, if any,
// is in r.Body. Where start returns an error, the exchange is over.
func (e *exchange) start(r *Request, body []byte, more bool) error {
	e.conn.wrote = 0
	writeHeader(e.conn.w, r, len(body), more)
	e.conn.w.Write(body)
	err := e.conn.w.Flush()
	e.sent = e.conn.wrote > 0
	if err != nil {
		return err
	}
	if !more {
		return e.bePatient()
	}
	// The deadline of the exchange before is not this one's: a body may take as
	// long as its client does.
	if err := e.conn.readUntil(time.Time{}); err != nil {
		return err
	}
	e.watch()
	e.upload = &upload{done: make(chan struct{})}
	go e.send(r)
	return nil
}

// send sends a body that is not small. It reads from the client and writes to
// the worker until either ends.
func (e *exchange) send(r *Request) {
	source := &faultReader{r: r.Body}
	var err error
	if r.ContentLength >= 0 {
		var n int64
		// Without its ReadFrom, which would copy by its small buffer.
		n, err = io.CopyN(struct{ io.Writer }{e.conn.w}, source, r.ContentLength)
		if err == io.EOF {
			err = shortBody(n, r.ContentLength)
			source.err = err
		}
	} else {
		err = writeChunks(e.conn.w, source)
	}
	if err == nil {
		err = e.conn.w.Flush()
	}
	if err == nil {
		err = e.conn.SetReadDeadline(time.Now().Add(e.timeout)) // the reader's until stays zero
	}
	e.upload.fault, e.upload.err = source.err, err
	close(e.upload.done)
	if source.err != nil {
		// The worker must not take what it has for the whole. Closed after the
		// fault is known, which is then why reading the answer fails.
		e.conn.Close()
	}
	// An error of writing means that the worker has closed the connection,
	// maybe after an answer, which is read elsewhere.
}

func shortBody(n, length int64) error {
	return fmt.Errorf("the body has %d of %d bytes: %w", n, length, io.ErrUnexpectedEOF)
}

// patience is how long at least, and half of how long at most, an answer is awaited
// before the request's context is watched. Most answers are there by then, and the
// watch would cost each of them as much as finding its tenant and its limits.
const patience = 25 * time.Millisecond

// bePatient sets the deadline after which the context is watched. That of the
// exchange before stays while it is far enough: a timer for each exchange would cost
// nearly as much as the watch.
func (e *exchange) bePatient() error {
	now := time.Now()
	e.deadline = now.Add(e.timeout)
	if left := e.conn.until.Sub(now); patience <= left && left <= e.timeout {
		return nil
	}
	return e.conn.readUntil(now.Add(min(e.timeout, 2*patience)))
}

// watch has the end of the request's context close the connection: a cancelled
// request must not wait for the worker, which learns of it so.
func (e *exchange) watch() {
	if e.stop == nil {
		e.stop = context.AfterFunc(e.ctx, func() { e.conn.Close() })
	}
}

// readAnswer reads the answer's header.
func (e *exchange) readAnswer(method string) error {
	if e.stop == nil {
		e.conn.awaiting = e
	}
	e.conn.bounded, e.conn.left = true, maxAnswerHeader
	err := e.answer.readHead(e.conn.r, method)
	e.conn.bounded, e.conn.awaiting = false, nil
	if err != nil {
		return err
	}
	length := e.answer.ContentLength
	if length == 0 {
		e.answer.Body = http.NoBody
		return nil
	}
	e.body = answerBody{exchange: e, left: length}
	if e.answer.chunked {
		e.body.chunks = httputil.NewChunkedReader(e.conn.r)
	}
	e.answer.Body = &e.body
	if length > 0 && length <= int64(e.conn.r.Buffered()) {
		return nil
	}
	// The rest of the answer may take as long as it has readers.
	e.watch()
	return e.conn.readUntil(time.Time{})
}

// goOn is called when an answer did not come at once.
func (e *exchange) goOn() error {
	e.watch()
	return e.conn.readUntil(e.deadline)
}

// fault returns the error that reading the request's body met, if it is over.
func (e *exchange) fault() error {
	if e.upload == nil {
		return nil
	}
	select {
	case <-e.upload.done:
		return e.upload.fault
	default:
		return nil
	}
}

// end ends the exchange. The connection is kept only if both sides are done
// with it.
func (e *exchange) end(reusable bool) {
	e.once.Do(func() {
		if e.upload != nil {
			select {
			case <-e.upload.done:
				reusable = reusable && e.upload.err == nil
			default:
				reusable = false
			}
		}
		if e.stop != nil && !e.stop() {
			reusable = false // it is being closed
		}
		if reusable && e.conn.r.Buffered() == 0 {
			e.g.pool.put(e.conn)
		} else {
			e.conn.Close()
		}
		e.g.leaveAt(e.use)
	})
}

// writeHeader writes the request's line and header. more says that the body goes
// on behind its first n bytes.
func writeHeader(w *bufio.Writer, r *Request, n int, more bool) {
	w.WriteString(r.Method)
	w.WriteByte(' ')
	w.WriteString(r.Target)
	w.WriteString(" HTTP/1.1\r\nHost: sq\r\n")
	for _, field := range r.Header {
		if !httpguts.ValidHeaderFieldName(field.Name) || !httpguts.ValidHeaderFieldValue(field.Value[0]) {
			continue // nothing that could begin another header, or request
		}
		w.WriteString(field.Name)
		w.WriteString(": ")
		w.WriteString(field.Value[0])
		w.WriteString("\r\n")
	}
	switch {
	case more && r.ContentLength < 0:
		w.WriteString("Transfer-Encoding: chunked\r\n")
	case more:
		writeLength(w, r.ContentLength)
	case n > 0 || r.Method != http.MethodGet && r.Method != http.MethodHead:
		writeLength(w, int64(n))
	}
	w.WriteString("\r\n")
}

func writeLength(w *bufio.Writer, n int64) {
	var digits [20]byte
	w.WriteString("Content-Length: ")
	w.Write(strconv.AppendInt(digits[:0], n, 10))
	w.WriteString("\r\n")
}

// writeChunks sends a body of unknown length, each read at once.
func writeChunks(w *bufio.Writer, body io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			fmt.Fprintf(w, "%x\r\n", n)
			w.Write(buffer[:n])
			w.WriteString("\r\n")
			if err := w.Flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			_, err = w.WriteString("0\r\n\r\n")
			return err
		}
		if err != nil {
			return err
		}
	}
}

// faultReader keeps the error of reading, to tell it from one of writing.
type faultReader struct {
	r   io.Reader
	err error
}

func (f *faultReader) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}
