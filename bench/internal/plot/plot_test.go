package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// A picture is well-formed whatever it is of, and no point of it lies outside of the frame.
func TestChartsAreWellFormed(t *testing.T) {
	for name, c := range map[string]Chart{
		"nothing":   {},
		"one point": {Lines: []Line{{Name: "a", X: []float64{5}, Y: []float64{7}}}},
		"zeros":     {Bars: []Bar{{"a", 0}, {"b", 0}}},
		"escaped":   {Title: `"<&>"`, Lines: []Line{{Name: "</svg>", X: []float64{1, 2}, Y: []float64{1, 2}}}},
		"bars":      {Limit: 3, Bars: []Bar{{"a", 1}, {"b", 2.5}}},
		"powers": {LogX: true, Limit: 1.3, Lines: []Line{
			{Name: "login", X: []float64{1e4, 1e5, 1e6, 1e7}, Y: []float64{1, 1.02, 1.1, 1.21}},
			{Name: "refresh", X: []float64{1e4, 1e5, 1e6, 1e7}, Y: []float64{1, 1, 1.05, 1.3}},
		}},
	} {
		svg := c.SVG()
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, svg)
			}
		}
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || strings.Contains(svg, `"-`) {
			t.Errorf("%s: %s", name, svg)
		}
	}
}

func TestStridesAreRoundAndAboutFive(t *testing.T) {
	for most := 0.0003; most < 1e9; most *= 1.7 {
		step := stride(most)
		digits := step / math.Pow(10, math.Floor(math.Log10(step)*1.0000001))
		if n := most / step; n < 1.9 || n > 5.1 || math.Abs(digits-math.Round(digits)) > 1e-6 {
			t.Errorf("stride(%g) = %g", most, step)
		}
	}
}

func TestNumbersAreShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.123456: "0.123", 1.5: "1.5", 60: "60", 1234.5: "1234", 10_000: "10k", 2.5e6: "2.5M"} {
		if got := number(v); got != want {
			t.Errorf("number(%g) = %q, want %q", v, got, want)
		}
	}
}
