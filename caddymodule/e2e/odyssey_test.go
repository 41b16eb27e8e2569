package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	odyssey         = "the-odyssey"
	odysseyScrolls  = 52
	odysseyChecksum = "9dd0ca3402f6f9e6ee5ecdee786664f9"
)

// startOdyssey starts an edge with the-odyssey.phext placed in alpha's data
// directory, as a person would import it. It returns the file's text.
func startOdyssey(t *testing.T) (*Edge, string) {
	t.Helper()
	text, err := os.ReadFile("../../shared/phext/testdata/" + odyssey + ".phext")
	must(t, err)
	e := Start(t, Setup{})
	must(t, os.WriteFile(filepath.Join(e.DataRoot(), "alpha", odyssey+".phext"), text, 0o600))
	return e, string(text)
}

// TestOdysseyPlacedInTheDataDirectoryIsServedWhole: the text is prose with
// breaks as its editor left them, so get must answer it byte for byte, whatever
// the fewest breaks would be.
func TestOdysseyPlacedInTheDataDirectoryIsServedWhole(t *testing.T) {
	t.Parallel()
	e, text := startOdyssey(t)
	scrolls := naiveParse(text)
	if len(scrolls) != odysseyScrolls {
		t.Fatalf("the naive parse finds %d scrolls, want %d", len(scrolls), odysseyScrolls)
	}
	toc := e.Do("tok-alpha", "GET", "/toc?p="+odyssey, "").Body
	if n := strings.Count(toc, "\n"); n != odysseyScrolls {
		t.Errorf("toc has %d lines, want %d", n, odysseyScrolls)
	}
	for i, line := range strings.Split(strings.TrimSuffix(toc, "\n"), "\n") {
		if want := "* " + scrolls[i].coord() + ": " + naiveSummary(scrolls[i].text); line != want {
			t.Errorf("line %d of toc is %q, want %q", i, line, want)
		}
	}
	e.wantScrolls("tok-alpha", odyssey, scrolls)
	e.Want("tok-alpha", "GET", "/get?p="+odyssey, "", 200, text)
	e.Want("tok-alpha", "GET", "/checksum?p="+odyssey, "", 200, odysseyChecksum)
	var exported []struct{ Coord, Scroll string }
	must(t, json.Unmarshal([]byte(e.Do("tok-alpha", "GET", "/json-export?p="+odyssey, "").Body), &exported))
	if len(exported) != len(scrolls) {
		t.Fatalf("json-export has %d scrolls, want %d", len(exported), len(scrolls))
	}
	for i, s := range scrolls {
		if exported[i].Coord != s.coord() || exported[i].Scroll != s.text {
			t.Errorf("json-export has %s at %d, want %s with its text", exported[i].Coord, i, s.coord())
		}
	}
	var documents []struct {
		Name           string
		Bytes, Scrolls int
		Modified       string
	}
	got := e.Do("tok-alpha", "GET", "/documents", "", "Accept: application/json")
	must(t, json.Unmarshal([]byte(got.Body), &documents))
	if len(documents) != 1 || documents[0].Name != odyssey || documents[0].Bytes != len(text) || documents[0].Scrolls != odysseyScrolls || documents[0].Modified == "" {
		t.Errorf("documents answers %s", got.Body)
	}
	if lines := e.Do("tok-alpha", "GET", "/documents", "").Body; lines != "the-odyssey\t706373\t52\t"+documents[0].Modified+"\n" {
		t.Errorf("documents answers %q", lines)
	}
	e.Want("tok-beta", "GET", "/documents", "", 200, "")
	if e.Quit(); e.mustFile("alpha", odyssey+".phext") != text {
		t.Error("reading changed the file")
	}
}

func TestOdysseyPutWholeComesBackByteForByte(t *testing.T) {
	t.Parallel()
	e, text := startOdyssey(t)
	if got := e.Do("tok-alpha", "PUT", "/api/v2/documents/copy", text, "Content-Type: application/phext"); got.Status != 200 {
		t.Fatalf("PUT: %d %q", got.Status, got.Body)
	}
	for range 2 {
		e.Want("tok-alpha", "GET", "/api/v2/documents/copy", "", 200, text)
		e.Want("tok-alpha", "GET", "/api/v2/checksum?p=copy", "", 200, odysseyChecksum)
		e.wantScrolls("tok-alpha", "copy", naiveParse(text))
		e.Quit()
		if e.mustFile("alpha", "copy.phext") != text {
			t.Error("the file is not what was put")
		}
		e.Boot()
	}
}

func TestOdysseyEditsSurviveARestart(t *testing.T) {
	t.Parallel()
	e, text := startOdyssey(t)
	scrolls := naiveParse(text)
	changed := scrolls[7]
	e.Want("tok-alpha", "POST", "/update?p="+odyssey+"&c="+changed.coord(), "Tell me, O Muse", 200, "Updated 15 bytes")
	scrolls[7].text = "Tell me, O Muse"
	e.Want("tok-alpha", "POST", "/insert?p="+odyssey+"&c="+scrolls[20].coord(), "\n— the end —", 200, "Inserted 16 bytes")
	scrolls[20].text += "\n— the end —"
	last := scrolls[len(scrolls)-1]
	if got := e.Do("tok-alpha", "DELETE", "/delete?p="+odyssey+"&c="+last.coord(), ""); got.Status != 200 {
		t.Fatalf("delete: %d %q", got.Status, got.Body)
	}
	scrolls[len(scrolls)-1] = naiveScroll{[9]int{9, 9, 9, 9, 9, 9, 9, 9, 9}, "far away"}
	e.Want("tok-alpha", "POST", "/insert?p="+odyssey+"&c=9.9.9/9.9.9/9.9.9", "far away", 200, "Inserted 8 bytes")

	e.WantDocument("tok-alpha", odyssey, scrolls)
	e.Quit()
	if e.mustFile("alpha", odyssey+".phext") != naiveWrite(scrolls) {
		t.Error("after the edge ended the file is not the edited document")
	}
	e.Boot()
	e.WantDocument("tok-alpha", odyssey, scrolls)
}
