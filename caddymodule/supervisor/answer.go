package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
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
func readHead(r *bufio.Reader, method string) (resp *http.Response, chunked bool, err error) {
	for range maxInterim {
		if resp, chunked, err = readOneHead(r); err != nil {
			return nil, false, err
		}
		if resp.StatusCode >= 200 {
			if method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
				resp.ContentLength, chunked = 0, false
			}
			return resp, chunked, nil
		}
	}
	return nil, false, errors.New("too many interim answers")
}

func readOneHead(r *bufio.Reader) (resp *http.Response, chunked bool, err error) {
	line, err := readLine(r)
	if err != nil {
		return nil, false, err
	}
	const proto = "HTTP/1.1 "
	code, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte(proto)), []byte(" "))
	status, err := strconv.ParseUint(string(code), 10, 16)
	if err != nil || len(code) != 3 || status < 100 || !bytes.HasPrefix(line, []byte(proto)) {
		return nil, false, malformed("status line", line)
	}
	h := make(http.Header, 8)
	for values := make([]string, 0, 8); ; {
		if line, err = readLine(r); err != nil {
			return nil, false, err
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		text := string(bytes.Trim(value, " \t"))
		if !ok || !httpguts.ValidHeaderFieldName(string(name)) || !httpguts.ValidHeaderFieldValue(text) {
			return nil, false, malformed("header line", line)
		}
		key := headerName(name)
		values = append(values, text)
		if n := len(values); h[key] == nil {
			h[key] = values[n-1 : n : n]
		} else {
			h[key] = append(h[key], values[n-1])
		}
	}
	resp = &http.Response{
		StatusCode: int(status), Header: h, ContentLength: -1,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Close: httpguts.HeaderValuesContainsToken(h["Connection"], "close"),
	}
	lengths, codings := h["Content-Length"], h["Transfer-Encoding"]
	switch {
	case len(codings) == 1 && codings[0] == "chunked" && len(lengths) == 0:
		chunked = true
	case len(codings) > 0 || len(lengths) > 1:
		return nil, false, fmt.Errorf("the answer has Transfer-Encoding %.100q and Content-Length %.100q", codings, lengths)
	case len(lengths) == 1:
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		if err != nil {
			return nil, false, malformed("Content-Length", []byte(lengths[0]))
		}
		resp.ContentLength = int64(n)
	default:
		resp.Close = true
	}
	return resp, chunked, nil
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
	last     bool      // the worker closes the connection behind it
	begun    bool      // some of it was read
}

func (a *answerBody) Read(p []byte) (int, error) {
	n, err := a.read(p)
	e := a.exchange
	a.begun = a.begun || n > 0
	switch {
	case err == nil:
	case err == io.EOF:
		e.end(!a.last)
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

// body is the answer's body, to be read from the exchange's connection.
func (e *exchange) body(resp *http.Response, chunked bool) *answerBody {
	b := &answerBody{exchange: e, left: resp.ContentLength, last: resp.Close}
	if chunked {
		b.chunks = httputil.NewChunkedReader(e.conn.r)
	}
	return b
}
