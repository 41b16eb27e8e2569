package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is a header field of HTTP/2, in the order sent.
type field struct{ name, value string }

// TestIsolationFromSmuggledHTTP2Fields writes frames that no client library
// would. Each must be refused, by a 4xx or by the end of its stream.
func TestIsolationFromSmuggledHTTP2Fields(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{})
	const text = "CANARY of alpha's own"
	e.Want("tok-alpha", "POST", "/update?p=own&c="+origin, text, 200, "Updated 21 bytes")
	pseudo := []field{{":method", "GET"}, {":scheme", "https"}, {":authority", e.host()}, {":path", "/select?p=own&c=" + origin}}
	key := field{"authorization", "Bearer tok-alpha"}
	if status, body := e.sendFields(t, append(pseudo, key), nil); status != "200" || body != text {
		t.Fatalf("a proper request is answered %s %q", status, body)
	}
	post := append([]field{{":method", "POST"}}, pseudo[1:]...)
	post[3].value = "/update?p=own&c=" + origin
	for _, tt := range []struct {
		name   string
		fields []field
		body   []byte
	}{
		{"upper case name", append(pseudo, key, field{"SQ-Quota", "0"}), nil},
		{"the edge's header", append(pseudo, key, field{"sq-quota", "0"}), nil},
		{"CRLF in a value", append(pseudo, key, field{"x-a", "b\r\nsq-quota: 0"}), nil},
		{"NUL in a value", append(pseudo, key, field{"x-a", "b\x00"}), nil},
		{"CRLF in a name", append(pseudo, key, field{"x-a: b\r\nsq-quota", "0"}), nil},
		{"CRLF in the path", append([]field{pseudo[0], pseudo[1], pseudo[2], {":path", "/select HTTP/1.1\r\nsq-quota: 0\r\n\r\n"}}, key), nil},
		{"space in the path", append([]field{pseudo[0], pseudo[1], pseudo[2], {":path", "/select?p=own&c=" + origin + " HTTP/1.1"}}, key), nil},
		{"two paths", append(pseudo, field{":path", "/get?p=own"}, key), nil},
		{"no path", append(pseudo[:3:3], key), nil},
		{"unknown pseudo-header", append(pseudo, field{":sq-tenant", "beta"}, key), nil},
		{"pseudo-header after a field", append(pseudo[:3:3], key, pseudo[3]), nil},
		{"connection header", append(pseudo, key, field{"connection", "sq-quota"}), nil},
		{"transfer-encoding", append(post, key, field{"transfer-encoding", "chunked"}), []byte("3\r\nbad\r\n0\r\n\r\n")},
		{"body longer than its length", append(post, key, field{"content-length", "3"}), []byte("attack")},
		{"body shorter than its length", append(post, key, field{"content-length", "30"}), []byte("attack")},
		{"two lengths", append(post, key, field{"content-length", "6"}, field{"content-length", "3"}), []byte("attack")},
		{"two keys that disagree", append(pseudo, key, field{"authorization", "Bearer guess"}), nil},
		{"large header", append(pseudo, key, field{"x-a", string(bytes.Repeat([]byte("x"), 200<<10))}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, body := e.sendFields(t, tt.fields, tt.body); status != "" && status[0] != '4' {
				t.Errorf("answered %s %q, want a 4xx or none", status, clip(body))
			}
		})
	}
	e.Want("tok-alpha", "GET", "/select?p=own&c="+origin, "", 200, text)
}

// sendFields sends one HTTP/2 request as it is. It returns the answer's status,
// empty where the stream or the connection ended without one, and its body.
func (e *Edge) sendFields(t *testing.T, fields []field, body []byte) (status, got string) {
	t.Helper()
	config := e.tlsConfig()
	config.NextProtos = []string{http2.NextProtoTLS}
	conn, err := tls.Dial("tcp", e.host(), config)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(rawTimeout)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		must(t, encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}))
	}
	const frame = 16 << 10 // the largest that a peer takes unasked
	for first := true; first || block.Len() > 0; first = false {
		part := block.Next(frame)
		if first {
			err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part, EndHeaders: block.Len() == 0, EndStream: body == nil})
		} else {
			err = framer.WriteContinuation(1, block.Len() == 0, part)
		}
		if err != nil {
			return "", "" // the edge has hung up
		}
	}
	if body != nil {
		framer.WriteData(1, true, body) // the edge may have hung up
	}
	for {
		f, err := framer.ReadFrame()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			t.Fatal("no answer")
		case err != nil:
			return status, got
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			status = f.PseudoValue("status")
		case *http2.DataFrame:
			got += string(f.Data())
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status, got
		}
		if h := f.Header(); h.StreamID == 1 && h.Flags.Has(http2.FlagDataEndStream) && h.Type != http2.FrameWindowUpdate {
			return status, got
		}
	}
}
