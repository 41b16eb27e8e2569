package supervisor

import (
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestRelog(t *testing.T) {
	long := strings.Repeat("x", maxLogLine)
	tests := []struct {
		name   string
		in     string
		level  zapcore.Level
		msg    string
		fields map[string]any
		last   string
	}{
		{"not JSON", "panic: boom\n", zap.ErrorLevel, "worker wrote to stderr", map[string]any{"line": "panic: boom", "cut": false}, "panic: boom"},
		{"no end", "SIGSEGV", zap.ErrorLevel, "worker wrote to stderr", map[string]any{"line": "SIGSEGV", "cut": false}, "SIGSEGV"},
		{"half JSON", "{\"level\":\n", zap.ErrorLevel, "worker wrote to stderr", map[string]any{"line": `{"level":`, "cut": false}, `{"level":`},
		{"no level", `{"msg":"m"}` + "\n", zap.ErrorLevel, "worker wrote to stderr", map[string]any{"line": `{"msg":"m"}`, "cut": false}, `{"msg":"m"}`},
		{"not UTF-8", "\xff\n", zap.ErrorLevel, "worker wrote to stderr", map[string]any{"line": "\uFFFD", "cut": false}, "\uFFFD"},
		{"too long", long + "tail\n", zap.ErrorLevel, "worker wrote to stderr", map[string]any{"line": long, "cut": true}, long},
		{"fatal", `{"level":"fatal","msg":"m"}` + "\n", zap.ErrorLevel, "m", map[string]any{}, ""},
		{"panic", `{"level":"panic","msg":"m"}` + "\n", zap.ErrorLevel, "m", map[string]any{}, ""},
		{"own tenant", `{"level":"warn","ts":1.5,"msg":"m","tenant":"other","n":2}` + "\n", zap.WarnLevel, "m", map[string]any{"n": 2.0}, ""},
		{"debug", `{"level":"debug","msg":"m"}` + "\n", zap.DebugLevel, "m", map[string]any{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				w.WriteString(tt.in)
				w.Close()
			}()
			core, logs := observer.New(zap.DebugLevel)
			var logger atomic.Pointer[zap.Logger]
			logger.Store(zap.New(core).With(zap.String("tenant", "acme")))
			last := relog(r, &logger)
			if last != tt.last {
				t.Errorf("last words %.40q, want %.40q", last, tt.last)
			}
			if logs.Len() != 1 {
				t.Fatalf("%d entries, want one", logs.Len())
			}
			got := logs.All()[0]
			fields := got.ContextMap()
			tenant := fields["tenant"]
			delete(fields, "tenant")
			if got.Level != tt.level || got.Message != tt.msg || !maps.Equal(fields, tt.fields) || tenant != "acme" {
				t.Errorf("entry %v %q %.80v of %v, want %v %q %.80v", got.Level, got.Message, fields, tenant, tt.level, tt.msg, tt.fields)
			}
		})
	}
}

// The first line of a panic is what is remembered, not the end of its stack.
func TestLastWords(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		w.WriteString("noise\n{\"level\":\"info\",\"msg\":\"m\"}\n\npanic: boom\n\ngoroutine 1 [running]:\nmain.main()\n")
		w.Close()
	}()
	var logger atomic.Pointer[zap.Logger]
	logger.Store(zap.NewNop())
	if last := relog(r, &logger); last != "panic: boom" {
		t.Errorf("last words %q", last)
	}
}
