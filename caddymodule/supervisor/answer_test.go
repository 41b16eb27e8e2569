package supervisor

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMalformedAnswersAreRefused(t *testing.T) {
	for _, text := range []string{
		"",
		"HTTP/1.1 200",
		"HTTP/1.0 200 OK\r\n\r\n",
		"HTTP/1.1  200 OK\r\n\r\n",
		"HTTP/1.1 20 OK\r\n\r\n",
		"HTTP/1.1 +20 OK\r\n\r\n",
		"HTTP/1.1 099 No\r\n\r\n",
		"HTTP/1.1 200 OK\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\n Content-Length: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", connBuffer) + "\r\n\r\n",
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInterim) + "HTTP/1.1 204 No Content\r\n\r\n",
	} {
		var got Answer
		if err := got.readHead(bufio.NewReaderSize(strings.NewReader(text), connBuffer), http.MethodGet); err == nil {
			t.Errorf("%.80q was taken for an answer with status %d, header %v", text, got.StatusCode, got.Header)
		}
	}
}

// mustAnswer has a server that answers with these bytes alone, and then ends the
// connection.
func mustAnswer(t *testing.T, text string) *generation {
	t.Helper()
	g, _ := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, text)
		conn.(*net.UnixConn).CloseWrite()
	})
	return g
}

func TestAnswersEndWhereTheySay(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct{ answer, want string }{
		{head + "Content-Length: 3\r\n\r\nab", "cut"},
		{head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "cut"},
		{head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "cut"},
		{head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", "cut"},
		{head + "Transfer-Encoding: chunked\r\n\r\nx\r\nabc\r\n0\r\n\r\n", "cut"},
		{head + "Content-Length: 0\r\n\r\n", ""},
		{head + "Content-Length: 3\r\n\r\nabcdef", "abc"},
		{head + "\r\nuntil the end", "until the end"},
		{head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nrest", "abcde"},
		{"HTTP/1.1 204 No Content\r\n\r\nrest", ""},
	} {
		resp, err := post(t, mustAnswer(t, c.answer), nil, 0)
		if err != nil {
			t.Errorf("%q: %v", c.answer, err)
			continue
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var died *ErrDied
		if c.want == "cut" {
			if !errors.As(err, &died) {
				t.Errorf("%q: read %q, error %v, want one that says it is cut short", c.answer, got, err)
			}
		} else if err != nil || string(got) != c.want {
			t.Errorf("%q: read %q, error %v, want %q", c.answer, got, err, c.want)
		}
	}
}

// The deadline by which most answers are there must not cut off one that is not.
func TestAnswerMayComeInPieces(t *testing.T) {
	const pieces = "HTTP/1.1 200 OK\r\n|Content-Length: 6\r\n\r\n|abc|def"
	g, _ := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for piece := range strings.SplitSeq(pieces, "|") {
			io.WriteString(conn, piece)
			time.Sleep(2 * patience)
		}
	})
	resp, err := post(t, g, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "abcdef" {
		t.Errorf("read %q, error %v", got, err)
	}
}

// FuzzReadHead: what is accepted as an answer net/http reads in the same way.
func FuzzReadHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"), false)
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nX: 1\nX:  2 \n\n0\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, head bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		var got Answer
		err := got.readHead(bufio.NewReaderSize(bytes.NewReader(data), connBuffer), method)
		if err != nil {
			return
		}
		r := bufio.NewReader(bytes.NewReader(data))
		var want *http.Response
		for want == nil || want.StatusCode < 200 {
			if want, err = http.ReadResponse(r, &http.Request{Method: method}); err != nil {
				t.Fatalf("net/http refuses what was read as %+v: %v", got, err)
			}
		}
		length := want.ContentLength
		if want.Body == http.NoBody {
			length = 0
		}
		if got.StatusCode != want.StatusCode || got.ContentLength != length || got.chunked != slices.Contains(want.TransferEncoding, "chunked") && length != 0 {
			t.Errorf("read as %+v, by net/http as %+v", got, want)
		}
		for name, values := range want.Header {
			var ours []string
			for _, field := range got.Header {
				if field.Name == name {
					ours = append(ours, field.Value[0])
				}
			}
			if !slices.Equal(ours, values) {
				t.Errorf("header %s is %q, by net/http %q", name, ours, values)
			}
		}
	})
}
