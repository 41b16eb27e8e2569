package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// hotCounts is what the hot tenant's clients tell of their requests.
type hotCounts struct{ Answered, Refused int64 }

// hotProcess runs the hot tenant's clients until stop is closed. They stand for
// other machines: they have a process of their own, and the processor that nobody
// else wants. Where every is not 0 they leave the edge alone and ask a server within
// their process, which takes that long for each answer.
func hotProcess(stop <-chan struct{}, every time.Duration) (counts hotCounts, err error) {
	self, err := os.Executable()
	if err != nil {
		return counts, err
	}
	clients := exec.Command("chrt", "--idle", "0", self, "hot-clients", "-elsewhere", every.String())
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
func hotClients(every time.Duration) error {
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var answered, refused atomic.Int64
	address := edgeAddress
	if every > 0 {
		var err error
		if address, err = stranger(every); err != nil {
			return err
		}
	}
	err := hot(address, stop, &answered, &refused)
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(hotCounts{answered.Load(), refused.Load()}))
}

// stranger serves the hot tenant's requests at the address that it returns: one after
// the other, each for as much of a processor as every says, and with little beside that.
func stranger(every time.Duration) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", textBytes, strings.Repeat("x", textBytes))
	var turn sync.Mutex
	serve := func(conn net.Conn) {
		defer conn.Close()
		for r := bufio.NewReader(conn); ; {
			line, err := r.ReadSlice('\n')
			switch {
			case err != nil:
				return
			case len(line) > len("\r\n"): // not the end of the request yet
				continue
			}
			turn.Lock()
			for end := time.Now().Add(every); time.Now().Before(end); {
			}
			turn.Unlock()
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String(), nil
}

// hot sends the hot tenant's requests until stop is closed.
func hot(address string, stop <-chan struct{}, answered, refused *atomic.Int64) error {
	var group sync.WaitGroup
	var failure atomic.Pointer[error]
	request := selectAs(key)
	for range hotConnections {
		group.Go(func() {
			conn, err := net.Dial("tcp", address)
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
