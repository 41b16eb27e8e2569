package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// alphasKey is the header of an attack in alpha's name.
const alphasKey = "Authorization: Bearer tok-alpha"

// testIsolationFromSmuggledHeaders sends what net/http's client would not.
// smuggled is a whole request for beta's canary, without a key that opens it.
func testIsolationFromSmuggledHeaders(t *testing.T, b *besieged) {
	smuggled := rawHead("GET /select?p=canary&c="+origin+" HTTP/1.1", "Host: {host}", "SQ-Tenant: beta", "Connection: close")
	get := "GET /select?p=canary&c=" + origin + " HTTP/1.1"
	post := "POST /update?p=canary&c=" + origin + " HTTP/1.1"
	for _, tt := range []struct {
		name    string
		request string
	}{
		{"tenant header", rawHead(get, "Host: {host}", alphasKey, "X-SQ-Tenant: beta")},
		{"tenant header without X", rawHead(get, "Host: {host}", alphasKey, "SQ-Tenant: beta")},
		{"tenant header in lower case", rawHead(get, "Host: {host}", alphasKey, "x-sq-tenant: beta")},
		{"tenant header in upper case", rawHead(get, "Host: {host}", alphasKey, "X-SQ-TENANT: beta")},
		{"quota header", rawHead(post, "Host: {host}", alphasKey, "SQ-Quota: 0", "Content-Length: 6") + "attack"},
		{"quota header with X", rawHead(post, "Host: {host}", alphasKey, "X-SQ-Quota: 0", "Content-Length: 6") + "attack"},
		{"error header", rawHead(get, "Host: {host}", alphasKey, "SQ-Error: x")},
		{"a header of the edge's in a trailer", rawHead(post, "Host: {host}", alphasKey, "Transfer-Encoding: chunked", "Trailer: SQ-Quota", "SQ-Quota: 1") + "0\r\n\r\n"},
		{"space before the colon", rawHead(get, "Host: {host}", alphasKey, "SQ-Quota : 0")},
		{"tab before the colon", rawHead(get, "Host: {host}", alphasKey, "X-SQ-Tenant\t: beta")},
		{"folded header", rawHead(get, "Host: {host}", alphasKey, "X-A: b", " SQ-Tenant: beta", "SQ-Tenant: beta")},
		{"NUL in a header", rawHead(get, "Host: {host}", alphasKey, "X-A: b\x00c")},
		{"CR in a header", rawHead(get, "Host: {host}", alphasKey, "X-A: b\rSQ-Tenant: beta")},
		{"control byte in a name", rawHead(get, "Host: {host}", alphasKey, "X-\x01A: b")},
		{"no name", rawHead(get, "Host: {host}", alphasKey, ": beta")},
		{"no Host", rawHead(get, alphasKey)},
		{"two Hosts", rawHead(get, "Host: {host}", "Host: y", alphasKey)},
		{"Host with a path", rawHead(get, "Host: x/../beta", alphasKey)},
		{"two keys that disagree", rawHead(get, "Host: {host}", alphasKey, "Authorization: Bearer guess")},
		{"a key in both headers that disagree", rawHead(get, "Host: {host}", alphasKey, "X-SQ-API-Key: guess")},
		{"two keys in one header", rawHead(get, "Host: {host}", "Authorization: Bearer tok-alpha, Bearer guess")},
		{"key with a NUL", rawHead(get, "Host: {host}", "Authorization: Bearer tok-alpha\x00")},
		{"key in an underscored header", rawHead(get, "Host: {host}", "X_SQ_API_Key: tok-alpha")},
		{"key in the URL", rawHead("GET http://tok-alpha@{host}/select?p=canary&c="+origin+" HTTP/1.1", "Host: {host}")},
		{"two lengths", rawHead(post, "Host: {host}", alphasKey, "Content-Length: 6", "Content-Length: 3") + "attack"},
		{"two lengths in one", rawHead(post, "Host: {host}", alphasKey, "Content-Length: 6, 3") + "attack"},
		{"negative length", rawHead(post, "Host: {host}", alphasKey, "Content-Length: -1")},
		{"length with a sign", rawHead(post, "Host: {host}", alphasKey, "Content-Length: +6") + "attack"},
		{"length in hex", rawHead(post, "Host: {host}", alphasKey, "Content-Length: 0x6") + "attack"},
		{"empty length", rawHead(post, "Host: {host}", alphasKey, "Content-Length: ") + "attack"},
		{"length beyond 63 bits", rawHead(post, "Host: {host}", alphasKey, "Content-Length: 9999999999999999999") + "attack"},
		{"bad chunk size", rawHead(post, "Host: {host}", alphasKey, "Transfer-Encoding: chunked") + "zz\r\n" + smuggled},
		{"negative chunk size", rawHead(post, "Host: {host}", alphasKey, "Transfer-Encoding: chunked") + "-1\r\n" + smuggled},
		{"chunk size beyond 64 bits", rawHead(post, "Host: {host}", alphasKey, "Transfer-Encoding: chunked") + "fffffffffffffffff\r\n" + smuggled},
		{"chunk longer than its size", rawHead(post, "Host: {host}", alphasKey, "Transfer-Encoding: chunked") + "3\r\nattack\r\n0\r\n\r\n"},
		{"second request line", get + " HTTP/1.1\r\n" + smuggled},
		{"space in the target", rawHead("GET /select?p=canary&c="+origin+" &x= HTTP/1.1", "Host: {host}", alphasKey)},
		{"control byte in the target", rawHead("GET /select?p=can\x01ary&c="+origin+" HTTP/1.1", "Host: {host}", alphasKey)},
		{"HTTP/1.1 upgrade by a prefix", rawHead("GET /select?p=../beta/canary&c="+origin+" HTTP/1.1", "Host: {host}", alphasKey, "Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")},
		{"CONNECT", rawHead("CONNECT {host} HTTP/1.1", "Host: {host}", alphasKey)},
		{"TRACE", rawHead("TRACE /select HTTP/1.1", "Host: {host}", alphasKey)},
		{"method override", rawHead("PATCH /update?p=canary&c="+origin+" HTTP/1.1", "Host: {host}", alphasKey, "X-HTTP-Method-Override: POST")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, reply := range b.Raw(t, tt.request+smuggled) {
				b.wantRefused(t, tt.name, reply)
			}
		})
	}
	b.Want("tok-alpha", "GET", "/documents", "", 200, "")
}

// wantOneRefusal checks that a request was answered 400 and that nothing behind
// it was.
func (b *besieged) wantOneRefusal(t *testing.T, what string, replies []Reply) {
	t.Helper()
	if len(replies) != 1 || replies[0].Status != 400 {
		t.Errorf("%s: %v, want one 400 and the end of the connection", what, replies)
	}
	for _, reply := range replies {
		b.wantCalm(t, what, reply)
	}
}

// testIsolationFromUnknownTransferCodings: none but a single chunked is
// understood, and the connection goes no further.
func testIsolationFromUnknownTransferCodings(t *testing.T, b *besieged) {
	smuggled := rawHead("GET /select?p=canary&c="+origin+" HTTP/1.1", "Host: {host}", alphasKey)
	for _, header := range []string{
		"Transfer-Encoding: xchunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding:",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked;q=1",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding:\r\n chunked",
	} {
		b.wantOneRefusal(t, header, b.Raw(t, rawHead("POST /update?p=canary&c="+origin+" HTTP/1.1", "Host: {host}", alphasKey, header)+"6\r\nattack\r\n0\r\n\r\n"+smuggled))
	}
	b.wantOneRefusal(t, "HTTP/1.0", b.Raw(t, rawHead("POST /update?p=canary&c="+origin+" HTTP/1.0", "Host: {host}", alphasKey, "Transfer-Encoding: chunked")+"6\r\nattack\r\n0\r\n\r\n"+smuggled))
	b.Want("tok-alpha", "GET", "/documents", "", 200, "")
}

// testChunksAndLengthTogether: one reader of these bytes sees the request end
// where another sees a second one begin. Nothing of it is served, nor what
// follows, however the bytes come.
func testChunksAndLengthTogether(t *testing.T, b *besieged) {
	smuggled := rawHead("GET /select?p=canary&c="+origin+" HTTP/1.1", "Host: {host}", alphasKey)
	const chunked = "6\r\nchunks\r\n0\r\n\r\n"
	for _, length := range []int{0, 5, 6, 16, 16 + len(smuggled), 4096} {
		for _, order := range [][]string{
			{fmt.Sprintf("Content-Length: %d", length), "Transfer-Encoding: chunked"},
			{"Transfer-Encoding: chunked", fmt.Sprintf("Content-Length: %d", length)},
			{"transfer-encoding:chunked", "Expect: 100-continue", fmt.Sprintf("content-length:%d", length)},
		} {
			lines := append([]string{"POST /update?p=canary&c=" + origin + " HTTP/1.1", "Host: {host}", alphasKey}, order...)
			b.wantOneRefusal(t, fmt.Sprint(order), b.Raw(t, rawHead(lines...)+chunked+smuggled))
		}
	}
	b.Want("tok-alpha", "GET", "/documents", "", 200, "")
}

// testIsolationFromOversizedEverything: what is too large is refused before it
// is kept anywhere.
func testIsolationFromOversizedEverything(t *testing.T, b *besieged) {
	const update = "/update?p=big&c=" + origin
	big := strings.Repeat("x", 100<<10)
	// net/http answers once this much of a refused body has come, since closing
	// the connection on a client that still sends could lose the answer.
	begun := strings.Repeat("x", 256<<10+1)
	for _, tt := range []struct {
		name, request string
		status        int
	}{
		{"query", rawHead("GET /select?p=canary&c="+origin+"&x="+big+" HTTP/1.1", "Host: {host}", alphasKey), 431},
		{"path", rawHead("GET /"+big+" HTTP/1.1", "Host: {host}", alphasKey), 431},
		{"header", rawHead("GET "+update+" HTTP/1.1", "Host: {host}", alphasKey, "X-A: "+big), 431},
		{"header's name", rawHead("GET "+update+" HTTP/1.1", "Host: {host}", alphasKey, big+": a"), 431},
		{"many headers", rawHead("GET "+update+" HTTP/1.1", "Host: {host}", alphasKey, strings.Repeat("X-A: b\r\n", 20<<10)+"X-A: b"), 431},
		{"key", rawHead("GET "+update+" HTTP/1.1", "Host: {host}", "Authorization: Bearer "+big[:32<<10], "Connection: close"), 401},
		{"announced body", rawHead("POST "+update+" HTTP/1.1", "Host: {host}", alphasKey, "Content-Length: 16777217") + begun, 413},
		{"announced huge body", rawHead("POST "+update+" HTTP/1.1", "Host: {host}", alphasKey, "Content-Length: 9223372036854775807") + begun, 413},
		{"announced form", rawHead("POST /update HTTP/1.1", "Host: {host}", alphasKey, form, "Content-Length: 100000000") + begun, 413},
		{"announced document", rawHead("PUT /documents/big HTTP/1.1", "Host: {host}", alphasKey, "Content-Length: 1073741825") + begun, 413},
		{"chunked body", rawHead("POST "+update+" HTTP/1.1", "Host: {host}", alphasKey, "Transfer-Encoding: chunked") + chunks(17<<20), 413},
		{"chunked form", rawHead("POST /update HTTP/1.1", "Host: {host}", alphasKey, form, "Transfer-Encoding: chunked") + chunks(49<<20), 413},
		{"text in a form", rawHead("POST /update HTTP/1.1", "Host: {host}", alphasKey, form, "Connection: close", fmt.Sprint("Content-Length: ", 17<<20)) +
			("p=big&c=" + origin + "&s=" + strings.Repeat("x", 17<<20))[:17<<20], 413},
		{"document's name", rawHead("GET /get?p="+big[:10000]+" HTTP/1.1", "Host: {host}", alphasKey, "Connection: close"), 400},
		{"document's name in the path", rawHead("PUT /documents/"+big[:10000]+" HTTP/1.1", "Host: {host}", alphasKey, "Content-Length: 0", "Connection: close"), 400},
		{"coordinate", rawHead("GET /select?p=big&c="+strings.Repeat("1.", 10000)+" HTTP/1.1", "Host: {host}", alphasKey, "Connection: close"), 400},
		{"number of parameters", rawHead("GET /select?"+strings.Repeat("a=b&", 1000)+" HTTP/1.1", "Host: {host}", alphasKey, "Connection: close"), 400},
		{"number of different parameters", rawHead("GET /select?"+different(1000)+" HTTP/1.1", "Host: {host}", alphasKey, "Connection: close"), 400},
		{"limit", rawHead("POST /where?limit=99999999999999999999 HTTP/1.1", "Host: {host}", alphasKey, "Content-Length: 1", "Connection: close") + "x", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			replies := b.Raw(t, tt.request)
			for _, reply := range replies {
				b.wantRefused(t, tt.name, reply)
			}
			if len(replies) > 0 && replies[0].Status != tt.status {
				t.Errorf("%d %q, want %d", replies[0].Status, clip(replies[0].Body), tt.status)
			}
		})
	}
	b.Want("tok-alpha", "GET", "/documents", "", 200, "")
}

// chunks is a chunked body of n bytes, a multiple of 1 MiB.
func chunks(n int) string {
	return strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", n>>20) + "0\r\n\r\n"
}

// different is a query of n parameters.
func different(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d=b&", i)
	}
	return b.String()
}

// TestAQuotaHeaderFromOutsideLiftsNoQuota: the edge's own header is built from
// tenants.json alone, however the client spells its own.
func TestAQuotaHeaderFromOutsideLiftsNoQuota(t *testing.T) {
	t.Parallel()
	e := Start(t, Setup{Plain: true})
	alpha := e.Tenant("alpha")
	alpha.QuotaMB = 1
	e.Quit()
	e.WriteTenants(alpha, e.Tenant("beta"))
	e.Boot()
	body := strings.Repeat("x", 1<<20+1)
	for _, header := range []string{"SQ-Quota: 0", "sq-quota: 0", "X-SQ-Quota: 0", "SQ_Quota: 0", "Connection: SQ-Quota", "X-Forwarded-SQ-Quota: 0"} {
		got := e.keepAlive(t).do("POST", "/update?p=q&c="+origin, body, alphasKey, header)
		if got.Status != 507 && got.Status != 400 {
			t.Errorf("%s: %d %q, want 507 or 400", header, got.Status, got.Body)
		}
	}
	e.Want("tok-alpha", "GET", "/documents", "", 200, "")
}
