package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// client is a connection to the edge on which a request was answered already.
type client struct {
	net.Conn
	r *bufio.Reader
}

// clients makes n of them.
func (b *denseBed) clients(n int) ([]*client, error) {
	var clients []*client
	for range n {
		conn, err := net.Dial("tcp", b.address)
		if err != nil {
			closeAll(clients)
			return nil, err
		}
		c := &client{conn, bufio.NewReaderSize(conn, 4096)}
		clients = append(clients, c)
		if _, err := c.first(fmt.Appendf(nil, "GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n", b.address)); err != nil {
			closeAll(clients)
			return nil, err
		}
	}
	return clients, nil
}

func closeAll(clients []*client) {
	for _, c := range clients {
		c.Close()
	}
}

// first sends a request and returns the time to the first byte of its answer,
// which must be a 200.
func (c *client) first(request []byte) (time.Duration, error) {
	began := time.Now()
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	if _, err := c.r.Peek(1); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, readAnswer(c.r)
}

func (b *denseBed) selectOf(i int) []byte {
	return fmt.Appendf(nil, "GET /select?p=bench&c=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", coordinate(1), b.address, denseKey(i))
}

// maxTries is how often a patient client asks before it gives up.
const maxTries = 30

// patient sends a request until it is not answered 503, each time after as long as
// Retry-After says. It returns the time to the first byte of the answer, which must be
// a 200, and how often it had to come back.
func (c *client) patient(request []byte) (took time.Duration, refused int, err error) {
	began := time.Now()
	for ; refused < maxTries; refused++ {
		if _, err := c.Write(request); err != nil {
			return 0, refused, err
		}
		if _, err := c.r.Peek(1); err != nil {
			return 0, refused, err
		}
		took = time.Since(began)
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			return 0, refused, err
		}
		text, err := io.ReadAll(resp.Body)
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		switch {
		case err != nil:
			return 0, refused, err
		case resp.StatusCode == http.StatusOK:
			return took, refused, nil
		case resp.StatusCode != http.StatusServiceUnavailable || seconds == 0:
			return 0, refused, fmt.Errorf("answer %s: %s", resp.Status, text)
		}
		time.Sleep(time.Duration(seconds) * time.Second)
	}
	return 0, refused, fmt.Errorf("was answered 503 for %d times, at last %v after the first", maxTries, took)
}

// wakes is what came of waking tenants at once.
type wakes struct {
	times   []time.Duration // to the first byte, of those that were served
	refused int             // answers 503, after which the client came back
	failed  int
	failure error // of one that failed
}

// atOnce sends a request as each of the tenants from from on, one on each
// connection, all at once.
func (b *denseBed) atOnce(clients []*client, from int) (w wakes) {
	var mu sync.Mutex
	var group sync.WaitGroup
	start := make(chan struct{})
	for n, c := range clients {
		request := b.selectOf(from + n)
		group.Go(func() {
			<-start
			took, refused, err := c.patient(request)
			mu.Lock()
			defer mu.Unlock()
			w.refused += refused
			if err != nil {
				w.failed, w.failure = w.failed+1, err
				return
			}
			w.times = append(w.times, took)
		})
	}
	close(start)
	group.Wait()
	return w
}

// streamConns is on how many connections a stream is sent, on each of them every
// pace, so that there is a request on its way in most milliseconds.
const streamConns = 4

// stream is the steady requests of one tenant.
type stream struct {
	done  chan struct{}
	once  sync.Once
	group sync.WaitGroup

	mu   sync.Mutex
	sent []sent
	err  error
}

// sent is one of a stream's requests: when it should have been sent, and how
// long after that its answer was there.
type sent struct {
	due  time.Time
	took time.Duration
}

func (b *denseBed) startStream(tenant int) (*stream, error) {
	clients, err := b.clients(streamConns)
	if err != nil {
		return nil, err
	}
	s := &stream{done: make(chan struct{})}
	began := time.Now()
	for n, c := range clients {
		s.group.Go(func() {
			defer c.Close()
			for due := began.Add(time.Duration(n) * pace / streamConns); ; due = due.Add(pace) {
				time.Sleep(time.Until(due))
				select {
				case <-s.done:
					return
				default:
				}
				_, err := c.first(b.selectOf(tenant))
				s.mu.Lock()
				s.sent = append(s.sent, sent{due, time.Since(due)})
				if err != nil {
					s.err = err
				}
				s.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return s, nil
}

// settle waits until what was sent is answered.
func (s *stream) settle() { time.Sleep(10 * pace) }

// slowest returns the longest that a request took which was due since then.
func (s *stream) slowest(since time.Time) (slowest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.sent) - 1; i >= 0 && s.sent[i].due.After(since.Add(-10*pace)); i-- {
		if s.sent[i].due.After(since) {
			slowest = max(slowest, s.sent[i].took)
		}
	}
	return slowest
}

func (s *stream) stop() error {
	s.once.Do(func() { close(s.done) })
	s.group.Wait()
	return s.err
}
