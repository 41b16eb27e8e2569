package deploy_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sqedge/sqedge/shared/tenants"
	"github.com/sqedge/sqedge/shared/wire"
)

// A refusal says why and leaves everything as it was, with --apply as without.
func TestMigrateRefuses(t *testing.T) {
	tests := []struct {
		name  string
		setup func(t *testing.T, m *migration)
		args  []string
		code  int
		want  string
	}{
		{name: "unknown argument", args: []string{"--frm", "x"}, code: 2, want: "unknown argument --frm"},
		{name: "argument without value", args: []string{"--quota-mb"}, code: 2, want: "--quota-mb needs a value"},
		{name: "no source", args: []string{"--from", ""}, code: 2, want: "--from is missing"},
		{name: "no id", args: []string{"--id", ""}, code: 2, want: "--id is missing"},
		{name: "quota is no number", args: []string{"--quota-mb", "1k"}, code: 2, want: "--quota-mb"},
		{name: "quota is octal", args: []string{"--quota-mb", "010"}, code: 2, want: "--quota-mb"},
		{name: "quota too large", args: []string{"--quota-mb", "1048577"}, code: 2, want: "--quota-mb"},
		{
			name: "quota smaller than the files", args: []string{"--quota-mb", "1"}, code: 1, want: "more than --quota-mb 1",
			setup: func(t *testing.T, m *migration) {
				mustWrite(t, m.from+"/big.phext", strings.Repeat("x", 1<<20))
			},
		},
		{name: "source does not exist", args: []string{"--from", "nowhere"}, code: 1, want: "--from nowhere is not a folder"},
		{name: "root does not exist", args: []string{"--root", "nowhere"}, code: 1, want: "--root nowhere is not a folder"},
		{name: "config does not exist", args: []string{"--config", "nowhere"}, code: 1, want: "tenants.json.example"},
		{
			name: "another caddy", code: 1, want: "has no command sq-tenant-add",
			setup: func(_ *testing.T, m *migration) { m.caddy = "/bin/false" },
		},
		{
			name: "no caddy", code: 1, want: "no caddy binary",
			setup: func(_ *testing.T, m *migration) { m.caddy = "/nowhere/caddy" },
		},
		{
			name: "target exists", code: 1, want: "exists: choose another id",
			setup: func(t *testing.T, m *migration) { mustMkdir(t, m.root+"/acme") },
		},
		{
			name: "target is a dangling link", code: 1, want: "exists: choose another id",
			setup: func(t *testing.T, m *migration) { mustSymlink(t, "nowhere", m.root+"/acme") },
		},
		{
			name: "no .phext files", code: 1, want: "has no .phext files",
			setup: func(t *testing.T, m *migration) {
				mustRename(t, m.from+"/notes.phext", m.from+"/notes.txt")
				mustMkdir(t, m.from+"/folder.phext")
			},
		},
		{
			name: "a tenant's data directory", code: 1, want: "has a .sq folder",
			setup: func(t *testing.T, m *migration) { mustMkdir(t, m.from+"/.sq") },
		},
		{
			name: "symbolic links", code: 1, want: "  a.phext: symbolic link\n  b: symbolic link\n",
			setup: func(t *testing.T, m *migration) {
				mustSymlink(t, "notes.phext", m.from+"/a.phext")
				mustSymlink(t, "/", m.from+"/b")
			},
		},
		{
			name: "named pipe", code: 1, want: "  pipe.phext: not a regular file\n",
			setup: func(t *testing.T, m *migration) {
				if err := syscall.Mkfifo(m.from+"/pipe.phext", 0o600); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			name: "nameless and default", code: 1, want: "  .phext: would become default.phext, which exists too\n",
			setup: func(t *testing.T, m *migration) {
				mustWrite(t, m.from+"/.phext", "nameless")
				mustWrite(t, m.from+"/default.phext", "default")
			},
		},
	}
	for _, id := range []string{"-a", "Acme", "a.b", "a/b", "../a", "ä", "a b", "a\n", strings.Repeat("a", 64)} {
		if tenants.CheckID(id) == nil {
			t.Fatalf("%q is a good id: the table is wrong", id)
		}
		tests = append(tests, struct {
			name  string
			setup func(t *testing.T, m *migration)
			args  []string
			code  int
			want  string
		}{name: fmt.Sprintf("id %q", id), args: []string{"--id", id}, code: 2, want: "is no tenant id"})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := mustMigration(t, map[string]string{"notes.phext": "notes"})
			if test.setup != nil {
				test.setup(t, m)
			}
			before := m.everything()
			for _, args := range [][]string{test.args, append([]string{"--apply"}, test.args...)} {
				r := m.run(args...)
				if r.code != test.code {
					t.Errorf("%v: exit status %d, want %d", args, r.code, test.code)
				}
				mustContain(t, r.stderr, test.want)
				mustSameTree(t, before, m.everything())
			}
		})
	}
}

// The script and the server agree on which names a document may have.
func TestMigrateNames(t *testing.T) {
	names := []string{
		"a", "-", "--", "a b", " ", "a.b", "default", "ünï", "名前", "😀", "a'b", `a"b`, "$(true)", "`x`", "*", "[a]", "\u00a0", "\u2028", "\ufeffx", "\ufffd",
		"\u00c2x", "\U0010ffff", "\ud7ff", "\ue000", // the edges of what UTF-8 may say
		strings.Repeat("a", 200), strings.Repeat("ä", 100),
		strings.Repeat("a", 201), strings.Repeat("ä", 100) + "a",
		".a", ".", "..", "a..b", "a..", `a\b`, `\`, "a\tb", "a\nb", "\x01", "a\x1f", "\x7f", "\u0080", "a\u0085", "\u009f",
		"\x80", "a\xff", "\xc3", "\xc3(", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\xaf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "a\xbfb",
	}
	for _, name := range names {
		t.Run(fmt.Sprintf("%q", name), func(t *testing.T) {
			m := mustMigration(t, map[string]string{name + ".phext": "text"})
			r := m.run()
			if want := wire.CheckDocument(name); want == nil && r.code != 0 {
				t.Errorf("refused: %s", r.stderr)
			} else if want != nil && (r.code != 1 || !strings.Contains(r.stderr, ": name ")) {
				t.Errorf("exit status %d and %q, but the server refuses: %v", r.code, r.stderr, want)
			}
		})
	}
}

// Files that the user who runs the script cannot read are listed.
func TestMigrateUnreadable(t *testing.T) {
	m := mustMigration(t, map[string]string{"open.phext": "open", "shut.phext": "shut"})
	if err := os.Chmod(m.from+"/shut.phext", 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		m.mustActAs(65534)
	}
	r := m.run("--apply")
	if r.code != 1 {
		t.Errorf("exit status %d, want 1", r.code)
	}
	mustContain(t, r.stderr, "  shut.phext: not readable\n")
	mustHold(t, m.root, nil)
}

func mustSymlink(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func mustRename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
