package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The fairness bench has neighbours tenants, each of which sends a request over
// its one connection every pace, and a hot tenant that sends over hotConnections
// of them as fast as it is answered: a hundred times the connections of each
// other tenant, and far more than a hundred times its requests.
const (
	neighbours     = 8
	hotConnections = 100
	pace           = 5 * time.Millisecond
)

// fairness measures the neighbours' latency alone, beside the hot tenant, and beside
// strangers, in turns, and prints each and the ratios. The strangers are the hot
// tenant's clients, who now ask a server that is not the edge as often: they show what
// it costs that such clients are on this machine at all, and keep it busy, which hot
// tenants' clients elsewhere do not.
func (b *testbed) fairness(rounds int, each time.Duration) error {
	for i := range neighbours {
		if err := b.writeAs(neighbourKey(i)); err != nil {
			return err
		}
	}
	var alone, beside, strangers []time.Duration
	var total hotCounts
	var ratios, strange []float64
	for range rounds {
		quiet, err := b.neighbours(each)
		if err != nil {
			return err
		}
		loud, counts, err := b.beside(each, 0)
		if err != nil {
			return err
		}
		busy, _, err := b.beside(each, each/time.Duration(max(1, counts.Answered)))
		if err != nil {
			return err
		}
		base := quantile(quiet, .99).Seconds()
		ratios = append(ratios, quantile(loud, .99).Seconds()/base)
		strange = append(strange, quantile(busy, .99).Seconds()/base)
		alone, beside, strangers = append(alone, quiet...), append(beside, loud...), append(strangers, busy...)
		total.Answered += counts.Answered
		total.Refused += counts.Refused
	}
	fmt.Printf("%d tenants, a request each every %v; hot tenant: %d connections without a pause; %d rounds of %v\n", neighbours, pace, hotConnections, rounds, each)
	for _, row := range []struct {
		name      string
		latencies []time.Duration
	}{{"alone", alone}, {"beside the hot tenant", beside}, {"beside strangers", strangers}} {
		fmt.Printf("%-22s p50 %8v  p90 %8v  p99 %8v  (%d requests)\n", row.name,
			quantile(row.latencies, .5).Round(time.Microsecond), quantile(row.latencies, .9).Round(time.Microsecond), quantile(row.latencies, .99).Round(time.Microsecond), len(row.latencies))
	}
	seconds := float64(rounds) * each.Seconds()
	fmt.Printf("hot tenant: %.0f answered and %.0f refused a second\n", float64(total.Answered)/seconds, float64(total.Refused)/seconds)
	verdict := "met"
	if quantile(ratios, .5) > 1.2 {
		verdict = "MISSED"
	}
	fmt.Printf("p99 beside the hot tenant / alone: %s  (bar 1.2: %s)\n", spread(ratios), verdict)
	fmt.Printf("p99 beside strangers / alone:      %s\n", spread(strange))
	return nil
}

func spread(ratios []float64) string {
	return fmt.Sprintf("median of the rounds %.2f, of them %.2f to %.2f", quantile(ratios, .5), slices.Min(ratios), slices.Max(ratios))
}

// beside is neighbours while the hot tenant's clients are at work; see hotProcess.
func (b *testbed) beside(each, every time.Duration) ([]time.Duration, hotCounts, error) {
	stop, ended := make(chan struct{}), make(chan error, 1)
	var counts hotCounts
	go func() {
		var err error
		counts, err = hotProcess(stop, every)
		ended <- err
	}()
	latencies, err := b.neighbours(each)
	close(stop)
	return latencies, counts, errors.Join(err, <-ended)
}

func neighbourKey(i int) string { return fmt.Sprintf("pmb-v1-neighbour-%d", i) }

func quantile[T cmp.Ordered](of []T, q float64) T {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// neighbours has each neighbour read its scroll at its pace for as long as it is
// told, and returns how long each answer took. A request that should have been
// sent while the one before was late counts from when it should have been.
func (b *testbed) neighbours(each time.Duration) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	var failure error
	var group sync.WaitGroup
	stop := time.Now().Add(each)
	for i := range neighbours {
		group.Go(func() {
			latencies, err := paced(selectAs(neighbourKey(i)), stop, time.Duration(i)*pace/neighbours)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, latencies...)
			if err != nil {
				failure = fmt.Errorf("neighbour %d: %w", i, err)
			}
		})
	}
	group.Wait()
	return all, failure
}

func paced(request []byte, stop time.Time, offset time.Duration) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", edgeAddress)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 4096)
	var latencies []time.Duration
	for due := time.Now().Add(offset); due.Before(stop); due = due.Add(pace) {
		began := due
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
			began = time.Now() // what the sleep took too long is not the service's
		}
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if err := readAnswer(reader); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(began))
	}
	return latencies, nil
}

func selectAs(key string) []byte {
	return fmt.Appendf(nil, "GET /select?p=bench&c=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", coordinate(1), edgeAddress, key)
}

// writeAs makes the scroll that a tenant reads, and so starts its worker.
func (b *testbed) writeAs(key string) error {
	url := "http://" + edgeAddress + "/update?p=bench&c=" + coordinate(1)
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(strings.Repeat("x", textBytes)))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}
