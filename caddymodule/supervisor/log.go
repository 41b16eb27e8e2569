package supervisor

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// maxLogLine is how much of a worker's line is logged, in bytes.
const maxLogLine = 16 << 10

// relog logs what a worker writes to stderr, until its end, by the logger of the
// moment: a zap line of JSON at its own level, anything else as an error. It returns
// the first line that was not JSON after the last one that was, which in a worker
// that died is where the Go runtime says why.
func relog(stderr *os.File, to *atomic.Pointer[zap.Logger]) (lastWords string) {
	r := bufio.NewReaderSize(stderr, maxLogLine)
	for {
		line, more, err := r.ReadLine()
		if err != nil {
			return lastWords
		}
		entry, fields, ok := parseLogLine(line)
		logger := to.Load()
		if ok {
			lastWords = ""
			logger.Log(entry.Level, entry.Message, fields...)
		} else if text := strings.ToValidUTF8(string(line), "\uFFFD"); strings.TrimSpace(text) != "" {
			if lastWords == "" {
				lastWords = text
			}
			logger.Error("worker wrote to stderr", zap.String("line", text), zap.Bool("cut", more))
		}
		for more && err == nil {
			_, more, err = r.ReadLine()
		}
	}
}

// parseLogLine reads a line of zap's JSON encoder. The edge's own time and the
// tenant's name, which its logger adds, replace those of the line.
func parseLogLine(line []byte) (zapcore.Entry, []zap.Field, bool) {
	var values map[string]any
	if len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &values) != nil {
		return zapcore.Entry{}, nil, false
	}
	name, _ := values["level"].(string)
	message, ok := values["msg"].(string)
	level, err := zapcore.ParseLevel(name)
	if !ok || name == "" || err != nil {
		return zapcore.Entry{}, nil, false
	}
	for _, key := range []string{"level", "msg", "ts", "tenant"} {
		delete(values, key)
	}
	fields := make([]zap.Field, 0, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		fields = append(fields, zap.Any(key, values[key]))
	}
	// Logging at a worker's fatal level would end the edge.
	return zapcore.Entry{Level: min(level, zapcore.ErrorLevel), Message: message}, fields, true
}
