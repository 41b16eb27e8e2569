package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// CommandStandby is the command of the worker binary that the edge starts: it
// prepares itself, says [StandingBy], and waits for its assignment.
const CommandStandby = "standby"

// MaxAssignment is the longest assignment in bytes: a path of 4 KiB, each byte of
// it escaped, and the rest.
const MaxAssignment = 32 << 10

// Assignment returns the line on [FDLifeline] that gives a worker its tenant: the
// arguments of the command serve as a JSON array, which holds no newline but its
// last byte. They must be valid UTF-8.
func Assignment(args []string) ([]byte, error) {
	line, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	if line = append(line, '\n'); len(line) > MaxAssignment {
		return nil, fmt.Errorf("the assignment has %d bytes: at most %d are read", len(line), MaxAssignment)
	}
	return line, nil
}

// ReadAssignment reads what [Assignment] returns, and no more than that has come:
// r must give it alone. The error is io.EOF itself where the edge has gone, or
// wants the worker to go, before it has sent anything.
func ReadAssignment(r io.Reader) ([]string, error) {
	line := make([]byte, 0, 512)
	for !bytes.HasSuffix(line, []byte("\n")) {
		if len(line) == cap(line) {
			line = append(line, 0)[:len(line)]
		}
		n, err := r.Read(line[len(line):min(cap(line), MaxAssignment)])
		line = line[:len(line)+n]
		switch {
		case n > 0:
		case err == io.EOF && len(line) == 0:
			return nil, io.EOF
		case err == io.EOF:
			return nil, errors.New("the assignment is cut short")
		case err != nil:
			return nil, fmt.Errorf("reading the assignment: %w", err)
		case len(line) == MaxAssignment:
			return nil, fmt.Errorf("the assignment is longer than %d bytes", MaxAssignment)
		}
	}
	if i := bytes.IndexByte(line, '\n'); i < len(line)-1 {
		return nil, errors.New("there is more than one line of assignment")
	}
	var args []string
	if err := json.Unmarshal(line, &args); err != nil {
		return nil, fmt.Errorf("the assignment is not an array of strings: %w", err)
	}
	return args, nil
}
