package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const mib = 1 << 20

// StartWithQuota starts an edge whose tenant alpha has a quota in MiB.
func StartWithQuota(t *testing.T, quotaMB int) (*Edge, Tenant) {
	t.Helper()
	e := Start(t, Setup{Plain: true})
	alpha := e.Tenant("alpha")
	e.SetQuota(alpha, quotaMB)
	return e, alpha
}

// SetQuota changes alpha's quota in tenants.json and waits until it is in force.
func (e *Edge) SetQuota(alpha Tenant, quotaMB int) {
	e.t.Helper()
	alpha.QuotaMB = quotaMB
	e.WriteTenants(alpha, e.Tenant("beta"))
	Eventually(e.t, "the quota is in force", func() error {
		var list struct{ Tenants []Tenant }
		e.Admin("GET", "tenants", "", 200, &list)
		if got := list.Tenants[0]; got.QuotaMB != quotaMB {
			return fmt.Errorf("it is %d MB", got.QuotaMB)
		}
		return nil
	})
}

// used reads how much is used from the text of a refusal.
func used(t *testing.T, body string) int64 {
	t.Helper()
	m := regexp.MustCompile(`(\d+) of (\d+) bytes are used`).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("%q does not say how much is used", body)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	must(t, err)
	return n
}

func TestQuotaRefusesWhatWouldPassItAndWritesNothing(t *testing.T) {
	t.Parallel()
	e, alpha := StartWithQuota(t, 1)
	write := func(op, document, coordinate string, size int) Reply {
		t.Helper()
		return e.Do(alpha.Key, "POST", "/"+op+"?p="+document+"&c="+coordinate, strings.Repeat("x", size))
	}
	// A break is a byte: 65534 of them lead to the last scroll of a row.
	if got := write("insert", "breaks", "1.1.1/1.1.1/1.1.65535", 2); got.Status != 200 {
		t.Fatalf("insert: %d %q", got.Status, got.Body)
	}
	stored := int64(65534 + 2)
	if n := e.Stats("alpha").StorageBytes; n != stored {
		t.Fatalf("%d bytes are stored, want %d: breaks count", n, stored)
	}
	if got := write("insert", "full", origin, int(mib-stored)); got.Status != 200 {
		t.Fatalf("filling to the last byte: %d %q", got.Status, got.Body)
	}
	checksum := e.Do(alpha.Key, "GET", "/checksum?p=full", "").Body

	for _, tt := range []struct {
		name  string
		write func() Reply
	}{
		{"one byte more", func() Reply { return write("insert", "full", origin, 1) }},
		{"into a new document", func() Reply { return write("insert", "new", origin, 1) }},
		{"an update that grows", func() Reply { return write("update", "breaks", "1.1.1/1.1.1/1.1.65535", 3) }},
		{"breaks alone", func() Reply { return write("insert", "breaks", "1.1.1/1.1.2/1.1.1", 1) }},
		{"a coordinate far away", func() Reply {
			return write("update", "new", "65535.65535.65535/65535.65535.65535/65535.65535.65535", 1)
		}},
		{"by GET", func() Reply { return e.Do(alpha.Key, "GET", "/insert?p=new&s=x&c="+origin, "") }},
		{"a whole new document", func() Reply { return e.Do(alpha.Key, "PUT", "/api/v2/documents/new", "x") }},
		{"a whole document that is larger", func() Reply {
			return e.Do(alpha.Key, "PUT", "/api/v2/documents/breaks", strings.Repeat("x", int(stored)+1))
		}},
	} {
		got := tt.write()
		if got.Status != 507 || used(t, got.Body) != mib {
			t.Errorf("%s: %d %q, want 507 that says %d", tt.name, got.Status, clip(got.Body), mib)
		}
	}
	if n := e.Stats("alpha").StorageBytes; n != mib {
		t.Errorf("%d bytes are stored after the refusals, want %d", n, mib)
	}
	if now := e.Do(alpha.Key, "GET", "/checksum?p=full", "").Body; now != checksum {
		t.Error("a refused write changed a document")
	}
	e.Want("tok-beta", "POST", "/insert?c="+origin, "beta has its own quota", 200, "Inserted 22 bytes")

	// What does not grow is allowed, and what it frees can be used.
	for _, tt := range []struct {
		got    Reply
		stored int64
	}{
		{write("update", "full", origin, int(mib-stored)), mib},
		{write("update", "full", origin, 1000), stored + 1000},
		{e.Do(alpha.Key, "DELETE", "/delete?p=full&c="+origin, ""), stored},
		{e.Do(alpha.Key, "PUT", "/api/v2/documents/full", strings.Repeat("y", int(mib-stored))), mib},
		{e.Do(alpha.Key, "DELETE", "/delete?p=breaks&c=1.1.1/1.1.1/1.1.65535", ""), mib - stored},
	} {
		if n := e.Stats("alpha").StorageBytes; tt.got.Status/100 != 2 || n > mib {
			t.Errorf("%d %q, %d bytes stored", tt.got.Status, clip(tt.got.Body), n)
		}
	}
	n := e.Stats("alpha").StorageBytes
	if n != mib-stored {
		t.Errorf("%d bytes are stored, want %d: the breaks went with their scroll", n, mib-stored)
	}
	if m := e.Metric(`sq_storage_bytes{tenant="alpha"}`); m != float64(n) {
		t.Errorf("the metric says %v, stats %d", m, n)
	}
	e.Quit()
	if disk := StoredBytes(t, alpha.DataDir); disk != n {
		t.Errorf("the files hold %d bytes, stats said %d", disk, n)
	}
	if _, err := os.Stat(alpha.DataDir + "/new.phext"); err == nil {
		t.Error("a refused write created a document")
	}
}

func TestQuotaChangeIsInForceWithoutARestart(t *testing.T) {
	t.Parallel()
	e, alpha := StartWithQuota(t, 1)
	text := strings.Repeat("x", mib)
	e.Want(alpha.Key, "POST", "/insert?p=a&c="+origin, text, 200, "Inserted 1048576 bytes")
	pid := e.Worker("alpha")
	if got := e.Do(alpha.Key, "POST", "/insert?p=b&c="+origin, "x"); got.Status != 507 {
		t.Fatalf("beyond 1 MiB: %d %q", got.Status, got.Body)
	}
	e.SetQuota(alpha, 2)
	e.Want(alpha.Key, "POST", "/insert?p=b&c="+origin, text, 200, "Inserted 1048576 bytes")
	e.SetQuota(alpha, 1) // below what is stored: nothing goes, nothing comes
	if got := e.Do(alpha.Key, "POST", "/insert?p=b&c="+origin, "x"); got.Status != 507 || used(t, got.Body) != 2*mib {
		t.Errorf("beyond a lowered quota: %d %q", got.Status, got.Body)
	}
	e.Want(alpha.Key, "POST", "/update?p=b&c="+origin, "small", 200, "Updated 5 bytes")
	if stats := e.Stats("alpha"); stats.QuotaMB != 1 || stats.QuotaUsed < 1 || stats.StorageBytes != mib+5 {
		t.Errorf("stats: %+v", stats)
	}
	e.SetQuota(alpha, 0) // none
	e.Want(alpha.Key, "POST", "/insert?p=c&c="+origin, strings.Repeat(text, 3), 200, "Inserted 3145728 bytes")
	if stats := e.Stats("alpha"); stats.QuotaUsed != 0 {
		t.Errorf("stats without a quota: %+v", stats)
	}
	if e.Worker("alpha") != pid {
		t.Error("the worker was restarted")
	}
}

func TestQuotaWarningAt90PercentIsLoggedOncePerPassing(t *testing.T) {
	t.Parallel()
	e, alpha := StartWithQuota(t, 1)
	want := 0
	warnings := func() int { return strings.Count(e.Log(), "90 % of the quota is used") }
	await := func(what string) {
		t.Helper()
		want++
		Eventually(t, what+" is warned of", func() error {
			if n := warnings(); n != want {
				return fmt.Errorf("there are %d warnings, want %d", n, want)
			}
			return nil
		})
	}
	put := func(size int) {
		t.Helper()
		if got := e.Do(alpha.Key, "PUT", "/api/v2/documents/whole", strings.Repeat("x", size)); got.Status/100 != 2 {
			t.Fatalf("PUT: %d %q", got.Status, got.Body)
		}
	}
	insert := func(size int) {
		t.Helper()
		e.Want(alpha.Key, "POST", "/insert?p=a&c="+origin, strings.Repeat("x", size), 200, fmt.Sprintf("Inserted %d bytes", size))
	}
	insert(mib * 89 / 100)
	for range 3 {
		insert(20_000)
	}
	await("an insert")
	e.Want(alpha.Key, "DELETE", "/delete?p=a&c="+origin, "", 200, fmt.Sprintf("Removed %d bytes", mib*89/100+60_000))
	put(mib * 95 / 100)
	put(mib * 96 / 100)
	await("a whole document")
	put(1)
	insert(mib * 91 / 100)
	await("passing again")
	e.Quit()
	if n := warnings(); n != want || !regexp.MustCompile(`"level":"warn".*90 % of the quota is used","tenant":"alpha".*"used_bytes":\d+`).MatchString(e.Log()) {
		t.Errorf("%d warnings, want %d, or not of alpha", n, want)
	}
}

func TestRacingWritersNeverPassTheQuota(t *testing.T) {
	t.Parallel()
	e, alpha := StartWithQuota(t, 1)
	var acknowledged atomic.Int64
	var refused atomic.Int64
	var writers sync.WaitGroup
	for w := range 64 {
		document := fmt.Sprintf("racer-%d", w%8)
		text := strings.Repeat("x", 7000+w*100)
		writers.Go(func() {
			for i := range 10 {
				// Each scroll but the first of its document costs one break.
				coordinate := fmt.Sprintf("1.1.1/1.1.1/1.1.%d", 1+i*8+w/8)
				got, err := e.Try(alpha.Key, "POST", "/insert?p="+document+"&c="+coordinate, text)
				switch {
				case err == nil && got.Status == 200:
					acknowledged.Add(int64(len(text)))
				case err == nil && got.Status == 507:
					refused.Add(1)
				default:
					t.Errorf("%v, %d %q", err, got.Status, got.Body)
				}
				if i%3 == 0 {
					var stats Stats
					got, err := e.Try(adminKey, "GET", "/api/v2/admin/tenants/alpha/stats", "")
					if err == nil && got.Status == 200 {
						err = json.Unmarshal([]byte(got.Body), &stats)
					}
					if err != nil || stats.StorageBytes > mib {
						t.Errorf("%d bytes are stored while writers race, %v", stats.StorageBytes, err)
					}
				}
			}
		})
	}
	writers.Wait()
	stats := e.Stats("alpha")
	breaks := stats.StorageBytes - acknowledged.Load()
	if stats.StorageBytes > mib || breaks < 0 || breaks > 8*79 || refused.Load() == 0 {
		t.Errorf("%d bytes are stored, %d acknowledged, %d writes refused", stats.StorageBytes, acknowledged.Load(), refused.Load())
	}
	if free := mib - stats.StorageBytes; free > 14_000 {
		t.Errorf("%d bytes are free, and writes that fit were refused", free)
	}
	e.Quit()
	if disk := StoredBytes(t, alpha.DataDir); disk != stats.StorageBytes {
		t.Errorf("the files hold %d bytes, stats said %d", disk, stats.StorageBytes)
	}
}
