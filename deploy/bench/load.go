package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// target is one request, ready to be written, and where it goes.
type target struct {
	network, address string
	request          []byte
}

// load sends the targets in turn over n connections for as long as each says,
// one request at a time on each connection, and returns how many were answered.
// It speaks just enough HTTP/1.1 to leave the CPU to what is measured.
func load(targets []target, n int, each time.Duration) (int64, error) {
	var (
		total, next atomic.Int64
		group       sync.WaitGroup
		failure     atomic.Pointer[error]
		stop        = time.Now().Add(each)
	)
	for range n {
		group.Go(func() {
			if err := loadOne(targets, &next, stop, &total); err != nil {
				failure.CompareAndSwap(nil, &err)
			}
		})
	}
	group.Wait()
	if err := failure.Load(); err != nil {
		return 0, *err
	}
	return total.Load(), nil
}

func loadOne(targets []target, next *atomic.Int64, stop time.Time, total *atomic.Int64) error {
	conn, err := net.Dial(targets[0].network, targets[0].address)
	if err != nil {
		return err
	}
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 4096)
	for done := int64(0); ; done++ {
		if time.Now().After(stop) {
			total.Add(done)
			return nil
		}
		t := targets[next.Add(1)%int64(len(targets))]
		if _, err := conn.Write(t.request); err != nil {
			return err
		}
		if err := readAnswer(reader); err != nil {
			return err
		}
	}
}

// readAnswer reads one answer with a Content-Length, which must be a 200.
func readAnswer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		rest := make([]byte, min(r.Buffered(), 500))
		io.ReadFull(r, rest)
		return fmt.Errorf("answer %q: %s", bytes.TrimSpace(status), rest)
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(": ")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("an answer without Content-Length")
	}
	_, err = r.Discard(length)
	return err
}
