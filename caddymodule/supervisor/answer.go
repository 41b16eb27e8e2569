package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"

	"golang.org/x/net/http/httpguts"
)

// A worker's answer is read by us: net/http's ReadResponse takes as long as the
// rest of the exchange but for the system's calls. What no worker sends is
// refused here, where net/http would make the best of it.

// maxInterim bounds the 1xx answers before the final one.
const maxInterim = 5

// malformed says what is wrong with a worker's answer.
func malformed(what string, line []byte) error {
	return fmt.Errorf("the answer has a malformed %s: %.100q", what, line)
}

// readHead reads the header of the final answer to a request of the method. The
// answer's body remains to be read: of ContentLength bytes, or in chunks where
// chunked says so, or until the connection ends where ContentLength is -1.
func (a *Answer) readHead(r *bufio.Reader, method string) error {
	for range maxInterim {
		if err := a.readOneHead(r); err != nil {
			return err
		}
		if a.StatusCode >= 200 {
			if method == http.MethodHead || a.StatusCode == http.StatusNoContent || a.StatusCode == http.StatusNotModified {
				a.ContentLength, a.chunked = 0, false
			}
			return nil
		}
	}
	return errors.New("too many interim answers")
}

func (a *Answer) readOneHead(r *bufio.Reader) error {
	line, err := readLine(r)
	if err != nil {
		return err
	}
	const proto = "HTTP/1.1 "
	code, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte(proto)), []byte(" "))
	status, err := strconv.ParseUint(string(code), 10, 16)
	if err != nil || len(code) != 3 || status < 100 || !bytes.HasPrefix(line, []byte(proto)) {
		return malformed("status line", line)
	}
	*a = Answer{StatusCode: int(status), ContentLength: -1, Header: make(Header, 0, 6)}
	var length, coding string
	var lengths, codings int
	for {
		if line, err = readLine(r); err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		text := string(bytes.Trim(value, " \t"))
		if !ok || !httpguts.ValidHeaderFieldName(string(name)) || !httpguts.ValidHeaderFieldValue(text) {
			return malformed("header line", line)
		}
		key := headerName(name)
		a.Header.Add(key, text)
		switch key {
		case "Content-Length":
			length, lengths = text, lengths+1
		case "Transfer-Encoding":
			coding, codings = text, codings+1
		case "Connection":
			a.last = a.last || httpguts.HeaderValuesContainsToken([]string{text}, "close")
		}
	}
	switch {
	case codings == 1 && coding == "chunked" && lengths == 0:
		a.chunked = true
	case codings > 0 || lengths > 1:
		return fmt.Errorf("the answer has Transfer-Encoding %.100q and Content-Length %.100q, %d fields", coding, length, codings+lengths)
	case lengths == 1:
		n, err := strconv.ParseUint(length, 10, 63)
		if err != nil {
			return malformed("Content-Length", []byte(length))
		}
		a.ContentLength = int64(n)
	default:
		a.last = true
	}
	return nil
}

// readLine returns a line without its end, valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch err {
	case nil:
		return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
	case io.EOF:
		return nil, io.ErrUnexpectedEOF
	case bufio.ErrBufferFull:
		return nil, malformed("header, whose line is too long", line)
	}
	return nil, err
}

// headerName returns a header's canonical name, without an allocation for those
// that workers send.
func headerName(name []byte) string {
	for _, known := range [...]string{"Content-Type", "Content-Length", "Date", "Etag", "Sq-Seq"} {
		if string(name) == known {
			return known
		}
	}
	return textproto.CanonicalMIMEHeaderKey(string(name))
}

// answerBody is the body of a worker's answer. Its end ends the exchange.
type answerBody struct {
	exchange *exchange
	left     int64     // bytes to come; -1 where only the connection's end tells
	chunks   io.Reader // instead, or nil
	begun    bool      // some of it was read
}

func (a *answerBody) Read(p []byte) (int, error) {
	n, err := a.read(p)
	e := a.exchange
	a.begun = a.begun || n > 0
	switch {
	case err == nil:
	case err == io.EOF:
		e.end(!e.answer.last)
	case e.ctx.Err() != nil:
		e.end(false)
		err = context.Cause(e.ctx)
	default:
		e.end(false)
		if !a.begun {
			e.g.settle(e.ctx) // the caller may send the request again
		}
		err = &ErrDied{Tenant: e.g.tenant.id, Err: fmt.Errorf("reading the answer: %w", err)}
	}
	return n, err
}

// read returns [io.EOF] where the answer is whole, with its last bytes if it can.
func (a *answerBody) read(p []byte) (n int, err error) {
	r := a.exchange.conn.r
	switch {
	case a.chunks != nil:
		if n, err = a.chunks.Read(p); err == io.EOF {
			// Behind the last chunk is an empty line, for want of trailers.
			if line, lineErr := readLine(r); lineErr != nil {
				err = lineErr
			} else if len(line) > 0 {
				err = malformed("end", line)
			}
		}
		return n, err
	case a.left < 0:
		return r.Read(p)
	case a.left == 0:
		return 0, io.EOF
	}
	n, err = r.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	if a.left == 0 {
		return n, io.EOF
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close gives up what was not read. It must not drain it, as net/http's own
// Close would: that could be the whole of a large document.
func (a *answerBody) Close() error {
	a.exchange.end(false)
	return nil
}
