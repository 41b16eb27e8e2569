package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// fairness measures the neighbours' latency with and without the hot tenant, in
// turns, and prints both and their ratio.
func (b *testbed) fairness(rounds int, each time.Duration) error {
	for i := range neighbours {
		if err := b.writeAs(neighbourKey(i)); err != nil {
			return err
		}
	}
	var alone, beside []time.Duration
	var answered, refused int64
	var ratios []float64
	for range rounds {
		quiet, err := b.neighbours(each)
		if err != nil {
			return err
		}
		stop, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			counts, err := hotProcess(stop)
			answered, refused = answered+counts.Answered, refused+counts.Refused
			ended <- err
		}()
		loud, err := b.neighbours(each)
		close(stop)
		if hotErr := <-ended; err == nil {
			err = hotErr
		}
		if err != nil {
			return err
		}
		ratios = append(ratios, quantile(loud, .99).Seconds()/quantile(quiet, .99).Seconds())
		alone, beside = append(alone, quiet...), append(beside, loud...)
	}
	fmt.Printf("%d tenants, a request each every %v; hot tenant: %d connections without a pause; %d rounds of %v\n", neighbours, pace, hotConnections, rounds, each)
	for _, row := range []struct {
		name      string
		latencies []time.Duration
	}{{"alone", alone}, {"beside the hot tenant", beside}} {
		fmt.Printf("%-22s p50 %8v  p90 %8v  p99 %8v  (%d requests)\n", row.name,
			quantile(row.latencies, .5).Round(time.Microsecond), quantile(row.latencies, .9).Round(time.Microsecond), quantile(row.latencies, .99).Round(time.Microsecond), len(row.latencies))
	}
	seconds := float64(rounds) * each.Seconds()
	fmt.Printf("hot tenant: %.0f answered and %.0f refused a second\n", float64(answered)/seconds, float64(refused)/seconds)
	slices.Sort(ratios)
	ratio := ratios[len(ratios)/2]
	verdict := "met"
	if ratio > 1.2 {
		verdict = "MISSED"
	}
	fmt.Printf("p99 beside / alone: median of the rounds %.2f, of them %.2f to %.2f  (bar 1.2: %s)\n", ratio, ratios[0], ratios[len(ratios)-1], verdict)
	return nil
}

func neighbourKey(i int) string { return fmt.Sprintf("pmb-v1-neighbour-%d", i) }

func quantile(latencies []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(latencies))
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

// hotCounts is what the hot tenant's clients tell of their requests.
type hotCounts struct{ Answered, Refused int64 }

// hotProcess runs the hot tenant's clients until stop is closed. They stand for
// other machines: they have a process of their own, and the processor that nobody
// else wants.
func hotProcess(stop <-chan struct{}) (counts hotCounts, err error) {
	self, err := os.Executable()
	if err != nil {
		return counts, err
	}
	clients := exec.Command("chrt", "--idle", "0", self, "hot-clients")
	clients.Stderr = os.Stderr
	until, err := clients.StdinPipe()
	if err != nil {
		return counts, err
	}
	told, err := clients.StdoutPipe()
	if err != nil {
		return counts, err
	}
	if err := clients.Start(); err != nil {
		return counts, fmt.Errorf("starting the hot tenant's clients (chrt is of the package util-linux): %w", err)
	}
	<-stop
	until.Close()
	err = json.NewDecoder(told).Decode(&counts)
	return counts, errors.Join(err, clients.Wait())
}

// hotClients is the process of the hot tenant's clients: it sends until its input
// ends, and then tells how much.
func hotClients() error {
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var answered, refused atomic.Int64
	err := hot(stop, &answered, &refused)
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(hotCounts{answered.Load(), refused.Load()}))
}

// hot sends the hot tenant's requests until stop is closed.
func hot(stop <-chan struct{}, answered, refused *atomic.Int64) error {
	var group sync.WaitGroup
	var failure atomic.Pointer[error]
	request := selectAs(key)
	for range hotConnections {
		group.Go(func() {
			conn, err := net.Dial("tcp", edgeAddress)
			if err != nil {
				failure.Store(&err)
				return
			}
			defer conn.Close()
			reader := bufio.NewReaderSize(conn, 4096)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := conn.Write(request); err != nil {
					failure.Store(&err)
					return
				}
				busy, err := readAnswerOrBusy(reader)
				switch {
				case err != nil:
					failure.Store(&err)
					return
				case busy:
					refused.Add(1)
				default:
					answered.Add(1)
				}
			}
		})
	}
	group.Wait()
	if err := failure.Load(); err != nil {
		return *err
	}
	return nil
}

// readAnswerOrBusy is readAnswer for one who may also be answered 503.
func readAnswerOrBusy(r *bufio.Reader) (busy bool, err error) {
	status, err := r.Peek(len("HTTP/1.1 503 "))
	if err != nil || !bytes.Equal(status, []byte("HTTP/1.1 503 ")) {
		if err != nil {
			return false, err
		}
		return false, readAnswer(r)
	}
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false, err
		}
		if line = strings.TrimSpace(line); line == "" {
			_, err := r.Discard(length)
			return true, err
		}
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			if length, err = strconv.Atoi(value); err != nil {
				return false, err
			}
		}
	}
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
