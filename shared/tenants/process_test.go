package tenants

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// The variable that makes the test binary a process which adds tenants to the
// file of that path until it is killed or has added as many as it should. It
// prints each id once Add has returned.
const adderEnv = "SQ_TEST_ADD_TO"

func TestMain(m *testing.M) {
	path := os.Getenv(adderEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	f, err := Open(path)
	for i := 0; err == nil && fmt.Sprint(i) != os.Getenv("SQ_TEST_COUNT"); i++ {
		id := fmt.Sprintf("%s-%d", os.Getenv("SQ_TEST_NAME"), i)
		if _, _, err = f.Add(NewTenant{id, "/d/" + id, 0}); err == nil {
			fmt.Println(id)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// adder starts a process that adds tenants named name-0, name-1 and so on;
// count "" means without end.
func adder(t *testing.T, path, name, count string) (cmd *exec.Cmd, ids *bufio.Scanner) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), adderEnv+"="+path, "SQ_TEST_NAME="+name, "SQ_TEST_COUNT="+count)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	MustDo(t, err)
	MustDo(t, cmd.Start())
	return cmd, bufio.NewScanner(out)
}

// TestConcurrentEditsLoseNothing lets two files in this process and two other
// processes edit at once, with a save by hand before each round that none of
// them has loaded.
func TestConcurrentEditsLoseNothing(t *testing.T) {
	const rounds, adds = 5, 4
	w := MustWatch(t, MustCreate(t, file("a", "gone")), true)
	second := MustOpen(t, w.path)
	want := []string{"a"}
	for round := range rounds {
		name := fmt.Sprintf("by-hand-%d", round)
		want = append(want, name)
		MustReplace(t, w.path, string(appendTenant([]byte(MustRead(t, w.path)),
			fmt.Sprintf(`{"id": %q, "api_key": %q, "data_dir": "/d/%s", "round": %d}`, name, "key-of-"+name, name, round))))

		var wg sync.WaitGroup
		for i, f := range []*File{w.File, second} {
			for n := range adds {
				id := fmt.Sprintf("round-%d-file-%d-%d", round, i, n)
				want = append(want, id)
				wg.Go(func() {
					key, tenant, err := f.Add(NewTenant{id, "/d/" + id, 0})
					if err != nil {
						t.Error(err)
					} else if got, _ := f.Registry().ByKey(key); got == nil || *got != *tenant {
						t.Errorf("%s is not in force when Add returns", id)
					}
				})
			}
		}
		for i := range 2 {
			name := fmt.Sprintf("round-%d-process-%d", round, i)
			for n := range adds {
				want = append(want, fmt.Sprintf("%s-%d", name, n))
			}
			wg.Go(func() {
				cmd, ids := adder(t, w.path, name, fmt.Sprint(adds))
				for ids.Scan() {
				}
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
		if round == 0 {
			wg.Go(func() {
				if _, err := second.Remove("gone"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	r := MustOpen(t, w.path).Registry()
	if len(r.Tenants()) != len(want) {
		t.Errorf("the file has %d tenants, want %d", len(r.Tenants()), len(want))
	}
	for _, id := range want {
		if r.ByID(id) == nil {
			t.Errorf("%s is lost", id)
		}
	}
	if n := strings.Count(MustRead(t, w.path), `"round": `); n != rounds {
		t.Errorf("%d of %d unknown members are left", n, rounds)
	}

	// The watched file's own registry gets there too, each change told from the
	// one before.
	MustDo(t, w.Reload())
	if !w.Registry().equal(r) {
		t.Error("the watched registry is not that of the file")
	}
	var last *Registry
	for len(w.changes) > 0 {
		change := <-w.changes
		if last != nil && change[0] != last {
			t.Error("changes were told out of order")
		}
		last = change[1]
	}
	if last != w.Registry() {
		t.Error("the last change told is not in force")
	}
	if len(w.faults) != 0 {
		t.Errorf("the watch saw a bad file: %v", <-w.faults)
	}
}

// TestKilledEditorLeavesAGoodFile kills a process that adds tenants: the file is
// good at once, has all that Add returned for, and can be edited.
func TestKilledEditorLeavesAGoodFile(t *testing.T) {
	path := MustCreate(t, file("a")).path
	for kill := range 20 {
		cmd, ids := adder(t, path, fmt.Sprintf("kill-%d", kill), "")
		var added []string
		for range 1 + kill%4 {
			if !ids.Scan() {
				t.Fatal("the process ended by itself")
			}
			added = append(added, ids.Text())
		}
		MustDo(t, cmd.Process.Kill())
		for ids.Scan() {
			added = append(added, ids.Text())
		}
		cmd.Wait() // says that it was killed
		f := MustOpen(t, path)
		for _, id := range added {
			if f.Registry().ByID(id) == nil {
				t.Fatalf("%s is lost", id)
			}
		}
		id := fmt.Sprintf("after-%d", kill)
		_, _, err := f.Add(NewTenant{id, "/d/" + id, 0})
		MustDo(t, err)
	}
}
