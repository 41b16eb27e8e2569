package caddymodule

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// refusedRequests are cut in two by a "|" where the framing must stop.
var refusedRequests = []struct{ name, request string }{
	{"empty line first", "|\r\nGET / HTTP/1.1\r\n\r\n"},
	{"bare LF behind the request line", "GET / HTTP/1.1|\nHost: a\r\n\r\n"},
	{"CR in the request line", "GET /|\rx HTTP/1.1\r\n\r\n"},
	{"NUL in the request line", "GET /|\x00 HTTP/1.1\r\n\r\n"},
	{"HTTP/0.9", "GET /|\r\n"},
	{"HTTP/1.2", "GET / HTTP/1.2|\r\n\r\n"},
	{"HTTP/2.0", "GET / HTTP/2.0|\r\n\r\n"},
	{"space behind the version", "GET / HTTP/1.1 |\r\n\r\n"},
	{"half a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\n|GET / HTTP/1.1\r\n\r\n"},
	{"preface of HTTP/2 as the second request", "GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0|\r\n\r\nSM\r\n\r\n"},
	{"both headers, coding first", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length|: 5\r\n\r\n"},
	{"both headers, length first", "POST / HTTP/1.1\r\nContent-Length: 5\r\nX: y\r\nTransfer-Encoding|: chunked\r\n\r\n"},
	{"both headers in other cases", "POST / HTTP/1.1\r\ncontent-length: 0\r\ntRANSFER-eNCODING|: chunked\r\n\r\n"},
	{"two codings", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding|: chunked\r\n\r\n"},
	{"a coding ahead of chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked|\r\n\r\n"},
	{"a coding behind chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip|\r\n\r\n"},
	{"identity", "POST / HTTP/1.1\r\nTransfer-Encoding: identity|\r\n\r\n"},
	{"no coding", "POST / HTTP/1.1\r\nTransfer-Encoding:|\r\n\r\n"},
	{"chunked with a parameter", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked;q=1|\r\n\r\n"},
	{"chunked with a Kelvin sign", "POST / HTTP/1.1\r\nTransfer-Encoding: chun\u212aed|\r\n\r\n"},
	{"chunked behind a vertical tab", "POST / HTTP/1.1\r\nTransfer-Encoding: |\vchunked\r\n\r\n"},
	{"coding of more than 24 bytes", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked" + strings.Repeat(" ", 17) + "| \r\n\r\n"},
	{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding|: chunked\r\n\r\n"},
	{"two lengths", "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length|: 5\r\n\r\n"},
	{"list of lengths", "POST / HTTP/1.1\r\nContent-Length: 5, 5|\r\n\r\n"},
	{"length with a sign", "POST / HTTP/1.1\r\nContent-Length: +5|\r\n\r\n"},
	{"negative length", "POST / HTTP/1.1\r\nContent-Length: -5|\r\n\r\n"},
	{"hexadecimal length", "POST / HTTP/1.1\r\nContent-Length: 0x5|\r\n\r\n"},
	{"length with an underscore", "POST / HTTP/1.1\r\nContent-Length: 1_0|\r\n\r\n"},
	{"empty length", "POST / HTTP/1.1\r\nContent-Length: |\r\n\r\n"},
	{"length beyond 63 bits", "POST / HTTP/1.1\r\nContent-Length: 9223372036854775808|\r\n\r\n"},
	{"space before the colon", "POST / HTTP/1.1\r\nTransfer-Encoding| : chunked\r\n\r\n"},
	{"NUL in a name", "POST / HTTP/1.1\r\nX-\x00A: b\r\n\r\n"},
	{"no name", "POST / HTTP/1.1\r\n|: b\r\n\r\n"},
	{"no colon", "POST / HTTP/1.1\r\nTransfer-Encoding|\r\n\r\n"},
	{"folded header", "POST / HTTP/1.1\r\nX: y\r\n| Transfer-Encoding: chunked\r\n\r\n"},
	{"folded coding", "POST / HTTP/1.1\r\nTransfer-Encoding:|\r\n chunked\r\n\r\n"},
	{"folded first line", "POST / HTTP/1.1\r\n|\tX: y\r\n\r\n"},
	{"bare LF behind a header", "POST / HTTP/1.1\r\nX: y|\nTransfer-Encoding: chunked\r\n\r\n"},
	{"bare LF behind the coding", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked|\n\r\n"},
	{"CR in a header", "POST / HTTP/1.1\r\nX: y\r|Z: a\r\n\r\n"},
	{"NUL in a header", "POST / HTTP/1.1\r\nX: |\x00\r\n\r\n"},
	{"bare LF behind the head", "POST / HTTP/1.1\r\nX: y\r\n|\n"},
	{"CR behind the head", "POST / HTTP/1.1\r\nX: y\r\n\r|\r\n"},
	{"no chunk size", post("|\r\n")},
	{"chunk size with a sign", post("|+5\r\n")},
	{"chunk size with 0x", post("0|x5\r\n")},
	{"chunk size behind a space", post("| 5\r\n")},
	{"space behind the chunk size", post("5| \r\n")},
	{"bare LF behind the chunk size", post("5|\nhello\r\n")},
	{"chunk size of 16 digits", post("000000000000000|5\r\n")},
	{"extension without a size", post("|;a=b\r\n")},
	{"bare LF in an extension", post("5;a=|\nhello\r\n")},
	{"CR in an extension", post("5;a=\r|b\r\n")},
	{"chunk longer than its size", post("3\r\nhel|lo\r\n")},
	{"bare LF behind a chunk", post("5\r\nhello|\n0\r\n\r\n")},
	{"CR alone behind a chunk", post("5\r\nhello\r|0\r\n\r\n")},
	{"bare LF behind the last chunk", post("0|\n\r\n")},
	{"bare LF behind the trailers", post("0\r\nX: y\r\n|\n")},
	{"folded trailer", post("0\r\n| X: y\r\n\r\n")},
	{"trailer without a colon", post("0\r\nGET| / HTTP/1.1\r\n\r\n")},
	{"length as a trailer", post("0\r\nContent-Length|: 5\r\n\r\n")},
	{"coding as a trailer", post("0\r\nTransfer-Encoding|: chunked\r\n\r\n")},
}

// post is the head of a chunked request and what stands behind it.
func post(rest string) string { return "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + rest }

// clearRequests are cut by "|" where one ends and the next begins.
var clearRequests = []struct{ name, requests string }{
	{"no header", "GET / HTTP/1.1\r\n\r\n|"},
	{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n|"},
	{"pipelined", "GET / HTTP/1.1\r\nHost: a\r\n\r\n|GET /b HTTP/1.1\r\nHost: a\r\n\r\n|"},
	{"length", "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello|GET / HTTP/1.1\r\n\r\n|"},
	{"no space ahead of the length and some behind", "POST / HTTP/1.1\r\nContent-Length:5 \t\r\n\r\nhello|"},
	{"length with zeros", "POST / HTTP/1.1\r\nCONTENT-LENGTH: \t 0005\r\n\r\nhello|"},
	{"length of zero", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n|POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n|"},
	{"length in HTTP/1.0", "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n\r\n|"},
	{"a body that looks like a request", "POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n|GET / HTTP/1.1\r\n\r\n|"},
	{"chunks", post("5\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\n|GET / HTTP/1.1\r\n\r\n|")},
	{"chunks with an extension", post("5;a=b; c=\"d\"\r\nhello\r\n000;last\r\n\r\n|")},
	{"chunks with trailers", post("1\r\n\n\r\n0\r\nX: y\r\nZ:\r\n\r\n|GET / HTTP/1.1\r\n\r\n|")},
	{"chunked in capitals", "PUT / HTTP/1.1\r\nTransfer-Encoding:\tCHUNKED\t\r\n\r\n0\r\n\r\n|"},
	{"names that begin or end like those that decide", "GET / HTTP/1.1\r\nTransfer-Encoding2: x\r\nXTransfer-Encoding: x\r\nContent-Lengt: x\r\nContent-Length-: 7\r\n\r\n|"},
	{"empty value", "GET / HTTP/1.1\r\nX:\r\nY: \r\n\r\n|"},
	{"bytes beyond ASCII", "GET /\xff HTTP/1.1\r\nX: \xc3\xa9\x80\r\n\r\n|"},
	{"upgrade", "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n|GET / HTTP/1.1\r\n\r\n|"},
	{"a method that begins like a preface", "PRI / HTTP/1.1\r\n\r\n|PUT / HTTP/1.1\r\n\r\n|"},
}

func TestFramingStopsAtEverySplit(t *testing.T) {
	for _, tt := range refusedRequests {
		before, after, cut := strings.Cut(tt.request, "|")
		if !cut { // where "|" is of no use: at the first byte that is no text
			n := strings.IndexByte(tt.request, 0)
			before, after = tt.request[:n], tt.request[n:]
		}
		for _, first := range []string{"", "GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\r\n"} {
			if first != "" && strings.HasPrefix(before, "PRI * HTTP/2.0\r") {
				continue // see the one without the line's end
			}
			wantFollowed(t, tt.name, first+before+after, len(first+before))
		}
	}
}

func TestFramingPassesAtEverySplit(t *testing.T) {
	for _, tt := range clearRequests {
		whole := strings.ReplaceAll(tt.requests, "|", "")
		wantFollowed(t, tt.name, whole, len(whole))
		var want []int
		for i, part := range strings.SplitAfter(tt.requests, "|") {
			if !strings.HasSuffix(part, "|") {
				break
			}
			if i > 0 {
				want = append(want, want[i-1]+len(part)-1)
			} else {
				want = append(want, len(part)-1)
			}
		}
		if _, got := endsOf([]byte(whole)); !slices.Equal(got, want) {
			t.Errorf("%s: requests end at %v, want %v", tt.name, got, want)
		}
	}
}

// wantFollowed splits b in two, and into single bytes.
func wantFollowed(t *testing.T, name, b string, want int) {
	t.Helper()
	for split := range len(b) + 1 {
		var f framing
		got := f.follow([]byte(b[:split]))
		if got == split {
			got += f.follow([]byte(b[split:]))
		}
		if got != want {
			t.Fatalf("%s: %q split at %d is followed to %d, want %d", name, b, split, got, want)
		}
	}
	if got, _ := endsOf([]byte(b)); got != want {
		t.Errorf("%s: %q in single bytes is followed to %d, want %d", name, b, got, want)
	}
}

// endsOf follows b and returns how far that went and where requests ended.
func endsOf(b []byte) (n int, ends []int) {
	var f framing
	for n < len(b) {
		was := f.state
		if f.follow(b[n:n+1]) == 0 {
			break
		}
		n++
		if f.state == inRequestLine && was != inRequestLine && was != inPreface {
			ends = append(ends, n)
		}
	}
	return n, ends
}

func TestFramingLeavesHTTP2Alone(t *testing.T) {
	wantFollowed(t, "preface", prefaceH2+"\x00\x00\x12\x04\x00\n\r\x7f", len(prefaceH2)+8)
}

// counter counts what was read through it.
type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// readAsNetHTTP returns where net/http sees requests end in b.
func readAsNetHTTP(b []byte) (ends []int) {
	c := &counter{Reader: bytes.NewReader(b)}
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return ends
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return ends
		}
		ends = append(ends, c.n-r.Buffered())
	}
}

// FuzzFraming: in what passes, with the damage behind it, net/http must see
// requests end where the framing does, and none that holds any of the damage.
func FuzzFraming(f *testing.F) {
	for _, tt := range refusedRequests {
		f.Add([]byte(strings.ReplaceAll(tt.request, "|", "")))
	}
	for _, tt := range clearRequests {
		f.Add([]byte(strings.ReplaceAll(tt.requests, "|", "")))
	}
	f.Add([]byte(post("5\r\nhello\r\n") + strings.Repeat("1\r\nx\r\n", 30) + "0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ours := endsOf(b)
		if bytes.HasPrefix(b, []byte(prefaceH2[:len("PRI * HTTP/2.0\r\n\r\n")])) {
			return // no HTTP/1: the server's last request, whatever follows
		}
		passed := b
		if n < len(b) {
			damage := make([]byte, 16<<10)
			new(strictConn).damage(damage)
			passed = append(slices.Clone(b[:n]), damage...)
		}
		for i, end := range readAsNetHTTP(passed) {
			if i >= len(ours) || ours[i] != end {
				t.Fatalf("%q passes up to %d: net/http sees request %d end at %d, the framing saw ends at %v", b, n, i+1, end, ours)
			}
		}
	})
}

func BenchmarkFraming(b *testing.B) {
	head := "GET /api/v2/select?p=notes&c=1.1.1/1.1.1/1.1.1 HTTP/1.1\r\nHost: localhost:8443\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nAuthorization: Bearer pmb-v1-c65c26e1035636a79cec9c7ebaafd3ae\r\n"
	for _, tt := range []struct{ name, request string }{
		{"get", head + "\r\n"},
		{"post-1MiB", head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", 1<<20, strings.Repeat("x", 1<<20))},
		{"chunked-1MiB", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("8000\r\n"+strings.Repeat("x", 32<<10)+"\r\n", 32) + "0\r\n\r\n"},
	} {
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(int64(len(tt.request)))
			b.ReportAllocs()
			request := []byte(tt.request)
			var f framing
			for b.Loop() {
				for rest := request; len(rest) > 0; {
					n := min(len(rest), 4096) // as net/http reads
					if f.follow(rest[:n]) != n {
						b.Fatal("refused")
					}
					rest = rest[n:]
				}
			}
		})
	}
}
