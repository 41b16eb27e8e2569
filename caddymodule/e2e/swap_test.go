package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Whoever mixes up directories, entries or sockets, or empties a directory, while
// tenants read and write, no tenant sees or changes a byte of another's or begins
// anew: at worst it is refused, until things are put right.
func TestSwappedDirectoriesEntriesAndSocketsMixNoBytes(t *testing.T) {
	t.Parallel()
	const at = "p=notes&c=1.1.1/1.1.1/1.1.1"
	e := Start(t, Setup{Plain: true})
	names := []string{"alpha", "beta"}
	other := map[string]string{"alpha": "beta", "beta": "alpha"}
	for _, name := range names {
		e.Want("tok-"+name, "POST", "/update?"+at, name, 200, fmt.Sprintf("Updated %d bytes", len(name)))
	}

	e.KnowsOwners(names...)

	var ended atomic.Bool
	var served, refused atomic.Int64
	var load sync.WaitGroup
	for _, name := range names {
		for worker := range 2 {
			load.Go(func() {
				for n := 0; !ended.Load(); n++ {
					method, path, body := "GET", "/select?"+at, ""
					if n%2 == worker {
						method, path, body = "POST", "/insert?"+at, " "+name
					}
					reply, err := e.Try("tok-"+name, method, path, body)
					switch {
					case err != nil:
						t.Errorf("%s: %v", name, err)
						return
					case strings.Contains(reply.Body, other[name]):
						t.Errorf("%s is answered %d with %s's bytes: %.100q", name, reply.Status, other[name], reply.Body)
						return
					case reply.Status == 200:
						served.Add(1)
					default:
						refused.Add(1)
					}
				}
			})
		}
	}

	swap := func(a, b string) {
		aside := a + ".aside"
		// A socket may be gone for a moment, while its worker is.
		for _, step := range [][2]string{{a, aside}, {b, a}, {aside, b}} {
			if err := os.Rename(step[0], step[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	}
	entries := [2]Tenant{e.Tenant("alpha"), e.Tenant("beta")}
	directories, emptied := false, map[string]bool{}
	// empty puts an empty directory in the place of another, or back.
	empty := func(dir string) {
		aside := dir + ".full"
		if emptied[dir] = !emptied[dir]; emptied[dir] {
			if err := errors.Join(os.Rename(dir, aside), os.Mkdir(dir, 0o700)); err != nil {
				t.Error(err)
			}
		} else if err := errors.Join(os.Remove(dir), os.Rename(aside, dir)); err != nil { // it is empty to this day
			t.Error(err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		switch random.IntN(5) {
		case 0:
			if emptied[entries[0].DataDir] || emptied[entries[1].DataDir] {
				continue
			}
			directories = !directories
			swap(entries[0].DataDir, entries[1].DataDir)
		case 1:
			alpha, beta := e.Tenant("alpha"), e.Tenant("beta")
			if random.IntN(2) == 0 {
				alpha.DataDir, beta.DataDir = beta.DataDir, alpha.DataDir
			}
			e.WriteTenants(alpha, beta)
		case 2:
			swap(filepath.Join(e.RunDir(), "alpha.sock"), filepath.Join(e.RunDir(), "beta.sock"))
		case 3:
			e.KillWorkers()
		case 4:
			empty(entries[random.IntN(2)].DataDir)
			e.KillWorkers()
		}
		// Some requests meet every state.
		for until := served.Load() + refused.Load() + 20; served.Load()+refused.Load() < until && !t.Failed(); {
			e.Try("", "GET", "/healthz", "")
		}
	}
	ended.Store(true)
	load.Wait()
	if t.Failed() {
		return
	}

	// Put right, everything is there and each tenant's own.
	e.Quit()
	for dir, is := range emptied {
		if is {
			empty(dir)
		}
	}
	if directories {
		swap(entries[0].DataDir, entries[1].DataDir)
	}
	e.WriteTenants(entries[0], entries[1])
	e.Boot()
	for _, name := range names {
		reply := e.Do("tok-"+name, "GET", "/select?"+at, "")
		if words := strings.Fields(reply.Body); reply.Status != 200 || len(words) == 0 || strings.Trim(reply.Body, name+" ") != "" {
			t.Errorf("in the end %s has %d, %.100q", name, reply.Status, reply.Body)
		}
	}
	t.Logf("%d requests served, %d refused", served.Load(), refused.Load())
	if served.Load() == 0 || refused.Load() == 0 {
		t.Error("nothing was shown")
	}
}
