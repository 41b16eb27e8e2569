package phext

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestParseCoordinateInvalid(t *testing.T) {
	for _, tt := range []struct {
		name, in, want string
	}{
		{"empty", "", "empty"},
		{"zero library", "0.1.1/1.1.1/1.1.1", "library must be 1 to 65535"},
		{"zero scroll", "1.1.1/1.1.1/1.1.0", "scroll must be 1 to 65535"},
		{"many zeros", "1.1.1/0000.1.1/1.1.1", "collection must be 1 to 65535"},
		{"65536", "1.1.1/1.1.1/65536.1.1", "chapter must be 1 to 65535"},
		{"65537, one if cut to 16 bits", "1.1.1/1.1.1/1.65537.1", "section must be 1 to 65535"},
		{"2^64+1", "1.18446744073709551617.1/1.1.1/1.1.1", "shelf must be 1 to 65535"},
		{"100 digits", "1.1." + strings.Repeat("9", 100) + "/1.1.1/1.1.1", "series must be 1 to 65535"},
		{"one number", "1", "1 of nine numbers: the shelf is missing"},
		{"two triples", "1.1.1/1.1.1", "6 of nine numbers: the chapter is missing"},
		{"eight numbers", "1.1.1/1.1.1/1.1", "8 of nine numbers: the scroll is missing"},
		{"ends in a dot", "1.1.1/1.1.1/1.1.", "8 of nine numbers: the scroll is missing"},
		{"ends in a slash", "1.1.1/1.1.1/", "6 of nine numbers: the chapter is missing"},
		{"number missing between dots", "1..1/1.1.1/1.1.1", "'.' where the shelf number should be"},
		{"number missing at the start", ".1.1/1.1.1/1.1.1", "'.' where the library number should be"},
		{"ten numbers", "1.1.1/1.1.1/1.1.1.1", "'.' after the ninth number"},
		{"fourth triple", "1.1.1/1.1.1/1.1.1/1.1.1", "'/' after the ninth number"},
		{"trailing space", "1.1.1/1.1.1/1.1.1 ", "' ' after the ninth number"},
		{"trailing newline", "1.1.1/1.1.1/1.1.1\n", `'\n' after the ninth number`},
		{"trailing NUL", "1.1.1/1.1.1/1.1.1\x00", `'\x00' after the ninth number`},
		{"leading space", " 1.1.1/1.1.1/1.1.1", "' ' where the library number should be"},
		{"space inside", "1.1.1/1. 1.1/1.1.1", "' ' where the volume number should be"},
		{"plus", "1.1.1/1.1.1/+1.1.1", "'+' where the chapter number should be"},
		{"minus", "1.1.1/1.1.-1/1.1.1", "'-' where the book number should be"},
		{"letters", "a.b.c/d.e.f/g.h.i", "'a' where the library number should be"},
		{"hexadecimal", "0x1.1.1/1.1.1/1.1.1", "library must be 1 to 65535"},
		{"exponent", "1e1.1.1/1.1.1/1.1.1", "'e' after the library: want a dot"},
		{"underscore", "1_0.1.1/1.1.1/1.1.1", "'_' after the library: want a dot"},
		{"Arabic-Indic digit", "١.1.1/1.1.1/1.1.1", `'\u0661' where the library number should be`},
		{"full-width digit", "1.\uff11.1/1.1.1/1.1.1", `'\uff11' where the shelf number should be`},
		{"superscript after a digit", "1².1.1/1.1.1/1.1.1", `'\u00b2' after the library: want a dot`},
		{"invalid UTF-8", "1.1.1/1.1.1/1.1.\xff", `'\ufffd' where the scroll number should be`},
		{"dot between triples", "1.1.1.1.1.1.1.1.1", "'.' after the series: want '/' or ';'"},
		{"slash within a triple", "1/1.1/1.1.1/1.1.1", "'/' after the library: want a dot"},
		{"comma", "1,1,1/1,1,1/1,1,1", "',' after the library: want a dot"},
		{"backslash", `1.1.1\1.1.1\1.1.1`, `'\\' after the series: want '/' or ';'`},
		{"two slashes", "1.1.1//1.1.1/1.1.1", "'/' where the collection number should be"},
		{"tenant prefix", "acme.1.1.1/1.1.1/1.1.1", "'a' where the library number should be"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseCoordinate(tt.in)
			if err == nil {
				t.Fatalf("ParseCoordinate(%q) = %v, want an error", tt.in, c)
			}
			if c != (Coordinate{}) {
				t.Errorf("ParseCoordinate(%q) = %v beside its error", tt.in, c)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseCoordinate(%q): %q, want it to say %q", tt.in, err, tt.want)
			}
		})
	}
}

func TestParseCoordinate(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Coordinate
		out  string
	}{
		{"1.1.1/1.1.1/1.1.1", Origin, "1.1.1/1.1.1/1.1.1"},
		{"1.2.3/4.5.6/7.8.9", Coordinate{1, 2, 3, 4, 5, 6, 7, 8, 9}, "1.2.3/4.5.6/7.8.9"},
		{"1.2.3;4.5.6;7.8.9", Coordinate{1, 2, 3, 4, 5, 6, 7, 8, 9}, "1.2.3/4.5.6/7.8.9"},
		{"1.2.3;4.5.6/7.8.9", Coordinate{1, 2, 3, 4, 5, 6, 7, 8, 9}, "1.2.3/4.5.6/7.8.9"},
		{"1.1.1/1.1.1/1981.12.31", Coordinate{1, 1, 1, 1, 1, 1, 1981, 12, 31}, "1.1.1/1.1.1/1981.12.31"},
		{"65535.65535.65535/65535.65535.65535/65535.65535.65535",
			Coordinate{Max, Max, Max, Max, Max, Max, Max, Max, Max},
			"65535.65535.65535/65535.65535.65535/65535.65535.65535"},
		{"007.1.1/1.1.1/1.1." + strings.Repeat("0", 100) + "10", Coordinate{7, 1, 1, 1, 1, 1, 1, 1, 10}, "7.1.1/1.1.1/1.1.10"},
	} {
		got, err := ParseCoordinate(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseCoordinate(%q) = %v, %v, want %v", tt.in, got, err, tt.want)
		}
		if s := got.String(); s != tt.out {
			t.Errorf("ParseCoordinate(%q).String() = %q, want %q", tt.in, s, tt.out)
		}
	}
}

func TestCoordinateCompare(t *testing.T) {
	ascending := []Coordinate{
		Origin,
		MustParse(t, "1.1.1/1.1.1/1.1.2"),
		MustParse(t, "1.1.1/1.1.1/1.1.10"),
		MustParse(t, "1.1.1/1.1.1/1.1.65535"),
		MustParse(t, "1.1.1/1.1.1/1.2.1"),
		MustParse(t, "1.1.1/1.1.1/2.1.1"),
		MustParse(t, "1.1.1/1.1.2/1.1.1"),
		MustParse(t, "1.1.1/1.2.1/1.1.1"),
		MustParse(t, "1.1.1/2.1.1/65535.1.1"),
		MustParse(t, "1.1.2/1.1.1/1.1.1"),
		MustParse(t, "1.2.1/1.1.1/1.1.1"),
		MustParse(t, "2.1.1/1.1.1/1.1.1"),
	}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%v.Compare(%v) = %d, want %d", a, b, got, want)
			}
			if got := a.Less(b); got != (want < 0) {
				t.Errorf("%v.Less(%v) = %v", a, b, got)
			}
		}
	}
}

// shape is the grammar of a coordinate, as an oracle for the parser.
var shape = regexp.MustCompile(`\A([0-9]+)\.([0-9]+)\.([0-9]+)[/;]([0-9]+)\.([0-9]+)\.([0-9]+)[/;]([0-9]+)\.([0-9]+)\.([0-9]+)\z`)

func FuzzParseCoordinate(f *testing.F) {
	for _, s := range []string{
		"", "1.1.1/1.1.1/1.1.1", "1.2.3;4.5.6/7.8.9", "65535.65536.0/1.1.1/1.1.1", "0001.1.1/1.1.1/1.1.00065535",
		"1.1.1/1.1.1/1.1.1 ", "+1.1.1/1.1.1/1.1.1", "١.1.1/1.1.1/1.1.1", "1.1.1/1.1.1/1.1.\xff", "1.1.1.1.1.1.1.1.1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseCoordinate(s)

		var want [9]int
		fields := shape.FindStringSubmatch(s)
		valid := fields != nil
		if valid {
			for d, digits := range fields[1:] {
				digits = strings.TrimLeft(digits, "0")
				n, _ := strconv.Atoi(digits)
				want[d] = n
				valid = valid && digits != "" && len(digits) <= 5 && n <= 65535
			}
		}
		if valid != (err == nil) {
			t.Fatalf("ParseCoordinate(%q): error %v, but valid by its grammar: %v", s, err, valid)
		}
		if err != nil {
			foreign := func(r rune) bool { return r < 0x20 || r > 0x7e }
			if strings.ContainsFunc(err.Error(), foreign) {
				t.Fatalf("ParseCoordinate(%q): error %q carries the client's bytes", s, err)
			}
			return
		}
		if numbers(got) != want {
			t.Fatalf("ParseCoordinate(%q) = %v, want %v", s, got, want)
		}
		if again, err := ParseCoordinate(got.String()); err != nil || again != got {
			t.Fatalf("ParseCoordinate(%q) = %v, %v, want %v", got.String(), again, err, got)
		}
		if prefix := []byte("x"); !slices.Equal(got.Append(prefix), []byte("x"+got.String())) {
			t.Fatalf("Append and String of %v differ", got)
		}
	})
}

// TestPlace: a packed coordinate is the same one, in the same order.
func TestPlace(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() (c Coordinate) {
		for d := range c {
			c[d] = uint16(1 + r.IntN(2)*r.IntN(Max))
		}
		return c
	}
	for range 10_000 {
		a, b := random(), random()
		if d := r.IntN(Dimensions + 1); d > 0 {
			copy(b[:d], a[:d])
		}
		if got := a.Place().Coordinate(); got != a {
			t.Fatalf("%v packed and unpacked is %v", a, got)
		}
		if a.Place().Less(b.Place()) != a.Less(b) || b.Place().Less(a.Place()) != b.Less(a) || a.Place().Less(a.Place()) {
			t.Fatalf("%v and %v are in another order when packed", a, b)
		}
	}
}
