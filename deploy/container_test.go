package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// instruction is one of a Containerfile: its name and its words, without flags.
type instruction struct {
	name  string
	stage string // of COPY: the stage it copies from, or "" for the repository
	words []string
}

func mustParseContainerfile(t *testing.T) []instruction {
	t.Helper()
	text := strings.ReplaceAll(mustRead(t, "Containerfile"), "\\\n", " ")
	var all []instruction
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		in := instruction{name: words[0]}
		for _, word := range words[1:] {
			if stage, ok := strings.CutPrefix(word, "--from="); ok {
				in.stage = stage
			} else if !strings.HasPrefix(word, "--") || in.name != "COPY" {
				in.words = append(in.words, word)
			}
		}
		all = append(all, in)
	}
	return all
}

// Nothing here can build the image, so at least every path it copies is there.
func TestContainerfile(t *testing.T) {
	var context []string // what the build stage has of the repository
	made := []string{"/src/bin/caddy", "/src/bin/sq-worker"}
	script := mustRead(t, "../xcaddy.sh")
	var stages, users int
	for _, in := range mustParseContainerfile(t) {
		switch in.name {
		case "FROM":
			stages++
		case "RUN":
			if in.words[0] == "mkdir" {
				made = append(made, in.words[1:]...)
			}
		case "USER":
			users++
			if user := in.words[0]; user == "root" || strings.HasPrefix(user, "0") {
				t.Errorf("the image runs as %s", user)
			}
		case "COPY":
			for _, source := range in.words[:len(in.words)-1] {
				if in.stage == "" {
					context = append(context, filepath.Clean(source))
					if _, err := os.Stat(filepath.Join("..", source)); err != nil {
						t.Errorf("the build copies %s: %v", source, err)
					}
					continue
				}
				inRepo, _ := strings.CutPrefix(source, "/src/")
				if !slices.Contains(made, source) && !slices.Contains(context, inRepo) {
					t.Errorf("the image copies %s, which the build stage does not have", source)
				}
				if binary, ok := strings.CutPrefix(source, "/src/bin/"); ok && !strings.Contains(script, "bin/"+binary) {
					t.Errorf("xcaddy.sh does not build bin/%s", binary)
				}
			}
		}
	}
	if stages != 2 || users != 1 {
		t.Errorf("%d stages and %d users, want 2 and 1", stages, users)
	}

	// Every folder that the binaries are compiled from is copied.
	const module = "github.com/sqedge/sqedge/"
	out, err := exec.Command("go", "list", "-deps", "-tags", "nobadger,nomysql,nopgx", "../caddymodule", "../worker").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	ours := 0
	for line := range strings.Lines(string(out)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), module)
		if !ok {
			continue
		}
		ours++
		if !slices.ContainsFunc(context, func(c string) bool { return path == c || strings.HasPrefix(path, c+"/") }) {
			t.Errorf("package %s is not copied into the build stage", path)
		}
	}
	if ours == 0 {
		t.Errorf("go list found no package of %s", module)
	}
}
