package deploy_test

import (
	"fmt"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// steps are the programs by which migrate.sh changes or verifies anything.
var steps = []string{"rm", "mkdir", "sha256sum", "cp", "mv", "chmod", "chown", "sync"}

var moveAway = regexp.MustCompile(`move it away: (mv -T .*)`)

// countSteps makes every step of m send SQ_SIGNAL to the script and all its
// children when it is the SQ_STEP'th, before it does its work. It returns a
// function that reads how many there were.
func (m *migration) countSteps() func() int {
	trace := m.dir + "/trace"
	m.env = append(m.env, "SQ_TRACE="+trace)
	m.instrument(`
echo "$0" >>"$SQ_TRACE"
if [ "$(wc -l <"$SQ_TRACE")" = "$SQ_STEP" ]; then kill -s "$SQ_SIGNAL" 0; fi
exec "$real" "$@"`, steps...)
	return func() int { return strings.Count(mustRead(m.t, trace), "\n") }
}

// Killed at any step, a migration leaves the source alone, a tenants file that
// loads, and either no target or a whole one; the next run succeeds.
func TestMigrateKilled(t *testing.T) {
	m := mustMigration(t, realFiles(t))
	count := m.countSteps()
	m.mustRun("--apply")
	total := count()
	if total < 10 {
		t.Fatalf("only %d steps were seen: the wrappers do not work", total)
	}
	for step := 1; step <= total; step++ {
		t.Run(strconv.Itoa(step), func(t *testing.T) {
			m := mustMigration(t, realFiles(t))
			m.countSteps()
			m.env = append(m.env, "SQ_SIGNAL=KILL", fmt.Sprintf("SQ_STEP=%d", step))
			source, config := m.tree(m.from), m.tree(m.config)
			if r := m.run("--apply"); r.code != -1 {
				t.Fatalf("exit status %d: it was not killed", r.code)
			}
			mustSameTree(t, source, m.tree(m.from))
			mustSameTree(t, config, m.tree(m.config)) // the entry comes last
			whole := exists(m.root + "/acme")
			if whole {
				mustHold(t, m.root+"/acme", migrated(t))
			}

			m.tools, m.env = "", nil
			r := m.run("--apply")
			if whole {
				command := moveAway.FindStringSubmatch(r.stderr)
				if r.code != 1 || command == nil {
					t.Fatalf("exit status %d and no advice: %s", r.code, r.stderr)
				}
				if r := m.command("bash", "-c", command[1]); r.code != 0 {
					t.Fatalf("%s: %s", command[1], r.stderr)
				}
				r = m.run("--apply")
			}
			if r.code != 0 {
				t.Fatalf("exit status %d: %s", r.code, r.stderr)
			}
			mustHold(t, m.root+"/acme", migrated(t))
			if m.tenant("acme") == nil {
				t.Error("the tenant has no entry")
			}
			if exists(m.root + "/.migrate-acme.tmp") {
				t.Error("the temporary folder is still there")
			}
		})
	}
}

// Told to stop at any step, it either takes away what it did or, once folder
// and entry must go together, finishes.
func TestMigrateStopped(t *testing.T) {
	// A shell cannot trap what was ignored when it started, as under nohup.
	// What this process catches, its children begin with as usual.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(caught)

	m := mustMigration(t, realFiles(t))
	count := m.countSteps()
	m.mustRun("--apply")
	total := count()
	codes := map[int]bool{}
	for step := 1; step <= total; step++ {
		for name, code := range map[string]int{"TERM": 143, "INT": 130, "HUP": 129} {
			m := mustMigration(t, realFiles(t))
			m.countSteps()
			m.env = append(m.env, "SQ_SIGNAL="+name, fmt.Sprintf("SQ_STEP=%d", step))
			before := m.everything()
			r := m.run("--apply")
			codes[r.code] = true
			switch r.code {
			case code:
				mustSameTree(t, before, m.everything())
			case 0:
				mustHold(t, m.root+"/acme", migrated(t))
				if m.tenant("acme") == nil {
					t.Error("the tenant has no entry")
				}
			default:
				t.Errorf("%s at step %d: exit status %d, want %d or 0\n%s", name, step, r.code, code, r.stderr)
			}
		}
	}
	if want := (map[int]bool{0: true, 129: true, 130: true, 143: true}); !maps.Equal(codes, want) {
		t.Errorf("exit statuses were %v, want all of %v", codes, want)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
