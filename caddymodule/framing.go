package caddymodule

import "strconv"

// framing follows the requests of one HTTP/1 connection, byte by byte as they
// come, to where each of them ends (RFC 9112). It takes only what can be read in
// one way: where two readers of the same bytes, such as a proxy in front and
// net/http behind, could see a request end at different places, it stops.
//
// It knows no more of HTTP than that takes; what it lets pass net/http still has
// to accept. It keeps no bytes but those of a header that decides.
type framing struct {
	state part

	matched int    // bytes of the connection so far that are those of prefaceH2
	tail    uint64 // the last eight bytes of the request line

	name      [len(transferEncoding)]byte // of the header, in lower case
	nameSize  int                         // may exceed it
	value     [24]byte                    // of a header that decides, in lower case
	valueSize int

	hasLength bool
	chunked   bool
	trailers  bool  // the headers are behind the last chunk
	digits    int   // of a chunk's size
	left      int64 // bytes of the body, or of the chunk, to come
}

// part is what the next byte belongs to.
type part uint8

const (
	inPreface part = iota // maybe of HTTP/2; only at the connection's beginning
	inHTTP2               // not ours to follow
	inRequestLine
	afterRequestLine // its LF
	inLineStart
	inName
	inHeader // the value of one that decides nothing
	inLength // the value of Content-Length
	inCoding // the value of Transfer-Encoding
	afterHeader
	afterHead
	inBody
	inChunkSize
	inChunkExtension
	afterChunkSize
	inChunk
	afterChunk // its CR
	afterChunkCR
)

const (
	prefaceH2        = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	contentLength    = "content-length"
	transferEncoding = "transfer-encoding"

	// The ends of a request line, as the last eight bytes read big-endian.
	http10 = 'H'<<56 | 'T'<<48 | 'T'<<40 | 'P'<<32 | '/'<<24 | '1'<<16 | '.'<<8 | '0'
	http11 = http10 + 1

	// maxChunkDigits keeps the size of a chunk within an int64.
	maxChunkDigits = 15
)

// follow returns how many bytes of b may pass: all, or those before the first at
// which the request stopped being clear. It must not be called again after that.
func (f *framing) follow(b []byte) int {
	for i := 0; i < len(b); {
		switch f.state {
		case inPreface:
			if b[i] != prefaceH2[f.matched] {
				f.state = inRequestLine
				if f.follow([]byte(prefaceH2[:f.matched])) < f.matched {
					return i // PRI is no method of HTTP/1
				}
				continue
			}
			i++
			if f.matched++; f.matched == len(prefaceH2) {
				f.state = inHTTP2
			}
		case inHTTP2:
			return len(b)
		case inBody, inChunk:
			n := min(int64(len(b)-i), f.left)
			i += int(n)
			if f.left -= n; f.left == 0 {
				f.endOfBytes()
			}
		case inHeader:
			for i < len(b) && isText(b[i]) {
				i++
			}
			if i < len(b) {
				if b[i] != '\r' {
					return i
				}
				f.state = afterHeader
				i++
			}
		default:
			if !f.step(b[i]) {
				return i
			}
			i++
		}
	}
	return len(b)
}

// endOfBytes follows the last byte of a body or of a chunk.
func (f *framing) endOfBytes() {
	if f.state == inChunk {
		f.state = afterChunk
	} else {
		f.nextRequest()
	}
}

func (f *framing) nextRequest() {
	*f = framing{state: inRequestLine}
}

// step follows one byte of what is not just counted. It returns false where c
// must not stand.
func (f *framing) step(c byte) bool {
	switch f.state {
	case inRequestLine:
		if c != '\r' {
			f.tail = f.tail<<8 | uint64(c)
			return isText(c)
		}
		f.state = afterRequestLine
		return f.tail == http10 || f.tail == http11
	case afterRequestLine, afterHeader:
		f.state = inLineStart
		return c == '\n'
	case inLineStart:
		if c == '\r' {
			f.state = afterHead
			return true
		}
		f.state, f.nameSize = inName, 0
		return f.nameByte(c) // no space, which would continue the line before it
	case inName:
		if c == ':' {
			return f.endOfName()
		}
		return f.nameByte(c)
	case inLength, inCoding:
		return f.valueByte(c)
	case afterHead:
		return c == '\n' && f.endOfHead()
	case inChunkSize:
		return f.chunkSizeByte(c)
	case inChunkExtension:
		if c == '\r' {
			f.state = afterChunkSize
			return true
		}
		return isText(c)
	case afterChunkSize:
		f.state = inChunk
		if f.left == 0 {
			f.state, f.trailers = inLineStart, true
		}
		return c == '\n'
	case afterChunk:
		f.state = afterChunkCR
		return c == '\r'
	case afterChunkCR:
		f.state, f.digits = inChunkSize, 0
		return c == '\n'
	}
	return false
}

func (f *framing) nameByte(c byte) bool {
	if f.nameSize < len(f.name) {
		f.name[f.nameSize] = lower(c)
	}
	f.nameSize++
	return isToken[c]
}

// endOfName decides whether the header does. Each of the two may stand once, and
// not beside the other. HTTP/1.0 has no transfer codings.
func (f *framing) endOfName() bool {
	f.state, f.valueSize = inHeader, 0
	if f.nameSize > len(f.name) {
		return true
	}
	switch string(f.name[:f.nameSize]) {
	case contentLength:
		f.state = inLength
	case transferEncoding:
		f.state = inCoding
		if f.tail != http11 {
			return false
		}
	default:
		return true
	}
	return !f.hasLength && !f.chunked && !f.trailers
}

func (f *framing) valueByte(c byte) bool {
	switch {
	case c == '\r':
		return f.endOfValue()
	case f.valueSize == 0 && (c == ' ' || c == '\t'):
		return true
	case f.valueSize == len(f.value):
		return false
	}
	f.value[f.valueSize] = lower(c)
	f.valueSize++
	return isText(c)
}

func (f *framing) endOfValue() bool {
	for f.valueSize > 0 && (f.value[f.valueSize-1] == ' ' || f.value[f.valueSize-1] == '\t') {
		f.valueSize--
	}
	value := string(f.value[:f.valueSize])
	coding := f.state == inCoding
	f.state = afterHeader
	if coding {
		f.chunked = true
		return value == "chunked"
	}
	f.hasLength = true
	n, err := strconv.ParseUint(value, 10, 63) // as net/http does
	f.left = int64(n)
	return err == nil
}

func (f *framing) endOfHead() bool {
	switch {
	case f.trailers:
		f.nextRequest()
	case f.chunked:
		f.state, f.digits = inChunkSize, 0
	case f.left > 0:
		f.state = inBody
	default:
		f.nextRequest()
	}
	return true
}

func (f *framing) chunkSizeByte(c byte) bool {
	var digit byte
	switch {
	case c >= '0' && c <= '9':
		digit = c - '0'
	case lower(c) >= 'a' && lower(c) <= 'f':
		digit = lower(c) - 'a' + 10
	case c == '\r':
		f.state = afterChunkSize
		return f.digits > 0
	case c == ';':
		f.state = inChunkExtension
		return f.digits > 0
	default:
		return false
	}
	f.left = f.left<<4 | int64(digit)
	f.digits++
	return f.digits <= maxChunkDigits
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// isText reports whether c may stand in a line: no control byte but the tab, so
// neither CR nor LF.
func isText(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }

// isToken has the bytes of a header's name.
var isToken = func() (is [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		is[c] = true
	}
	return is
}()
