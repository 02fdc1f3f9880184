// Package plot draws lines and bars as SVG, for the figures in docs/performance. A picture
// brings its own colours and takes those of a dark page where the reader has that
// (prefers-color-scheme), so it can be read on both. It knows just what these programs need.
package plot

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Chart is a picture. Its vertical axis begins at 0.
type Chart struct {
	Title string
	X, Y  string // what the axes show, with the unit
	LogX  bool   // the horizontal axis counts powers of ten; all X are above 0 then
	Lines []Line
	Bars  []Bar   // instead of Lines
	Limit float64 // a dashed line across, at the limit; 0 draws none
}

// Line is a series of points, from left to right.
type Line struct {
	Name string
	X, Y []float64 // of one length
}

// Bar is a value with a name.
type Bar struct {
	Name  string
	Value float64
}

// In pixels: the picture, and the frame of the axes in it.
const (
	width, height            = 720, 400
	left, right, top, bottom = 70, 700, 56, 340
)

// style gives each line and bar a colour that is told apart on white and on black, also by
// those who see no red or green (Okabe and Ito, 2008).
const style = `
svg { background: #fff; font: 13px system-ui, sans-serif; }
text { fill: #24292f; } .axis { stroke: #57606a; } .grid { stroke: #d0d7de; }
.title { font-size: 15px; font-weight: 600; } .limit { stroke: #57606a; stroke-dasharray: 6 4; }
.line { fill: none; stroke-width: 2; }
.s0 { stroke: #0072b2; } .f0 { fill: #0072b2; } .s1 { stroke: #d55e00; } .f1 { fill: #d55e00; }
.s2 { stroke: #009e73; } .f2 { fill: #009e73; } .s3 { stroke: #cc79a7; } .f3 { fill: #cc79a7; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; } text { fill: #e6edf3; } .axis, .limit { stroke: #8b949e; } .grid { stroke: #30363d; }
.s0 { stroke: #56b4e9; } .f0 { fill: #56b4e9; } .s1 { stroke: #e69f00; } .f1 { fill: #e69f00; }
}
`

// colours is how many there are; the next line begins again.
const colours = 4

// Write draws the chart into a file, whose directory is there.
func (c Chart) Write(path string) error {
	return os.WriteFile(path, []byte(c.SVG()), 0o644)
}

// SVG draws the chart.
func (c Chart) SVG() string {
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img"><title>%s</title><style>%s</style>`+"\n", width, height, escape(c.Title), style)
	label(&out, left, 24, "start", "title", c.Title)
	label(&out, (left+right)/2, height-14, "middle", "", c.X)
	label(&out, left, 44, "start", "", c.Y)
	y := c.vertical()
	c.grid(&out, y)
	if len(c.Bars) > 0 {
		bars(&out, c.Bars, y)
	} else {
		c.lines(&out, y)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// scale places values between two ends of an axis.
type scale struct {
	from, to float64 // of the values
	at, end  float64 // in pixels
	log      bool
}

func (s scale) place(v float64) float64 {
	if s.log {
		v = math.Log10(v)
	}
	if s.from == s.to {
		return s.at
	}
	return s.at + (v-s.from)/(s.to-s.from)*(s.end-s.at)
}

// vertical is the axis of the values, which ends at a round number above all of them.
func (c Chart) vertical() scale {
	most := c.Limit
	for _, b := range c.Bars {
		most = max(most, b.Value)
	}
	for _, l := range c.Lines {
		for _, v := range l.Y {
			most = max(most, v)
		}
	}
	step := stride(most)
	return scale{from: 0, to: max(step, math.Ceil(most/step)*step), at: bottom, end: top}
}

// stride is the distance of some five round numbers up to most.
func stride(most float64) float64 {
	if most <= 0 {
		return 1
	}
	rough := most / 5
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, m := range []float64{1, 2, 5} {
		if rough <= m*power {
			return m * power
		}
	}
	return 10 * power
}

// grid draws the axes, the round numbers of the vertical one, and the limit.
func (c Chart) grid(out *strings.Builder, y scale) {
	step := stride(y.to)
	for v := 0.0; v <= y.to*1.0001; v += step {
		at := y.place(v)
		stroke(out, "grid", left, at, right, at)
		label(out, left-8, at+4, "end", "", number(v))
	}
	stroke(out, "axis", left, bottom, right, bottom)
	if c.Limit > 0 {
		at := y.place(c.Limit)
		stroke(out, "limit", left, at, right, at)
		label(out, right, at-6, "end", "", "limit "+number(c.Limit))
	}
}

func (c Chart) lines(out *strings.Builder, y scale) {
	x := c.horizontal()
	for _, v := range c.marks(x) {
		label(out, x.place(v), bottom+18, "middle", "", number(v))
	}
	for i, l := range c.Lines {
		var points []string
		for j := range l.X {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x.place(l.X[j]), y.place(l.Y[j])))
		}
		fmt.Fprintf(out, `<polyline class="line s%d" points="%s"/>`+"\n", i%colours, strings.Join(points, " "))
		legend(out, i, l.Name)
	}
}

// horizontal is the axis of the X of all lines.
func (c Chart) horizontal() scale {
	var all []float64
	for _, l := range c.Lines {
		all = append(all, l.X...)
	}
	if len(all) == 0 {
		return scale{at: left, end: right}
	}
	s := scale{from: slices.Min(all), to: slices.Max(all), at: left, end: right, log: c.LogX}
	if c.LogX {
		s.from, s.to = math.Log10(s.from), math.Log10(s.to)
	}
	return s
}

// marks are the round numbers of the horizontal axis; a logarithmic one has those it was
// measured at.
func (c Chart) marks(x scale) (list []float64) {
	if c.LogX {
		for _, l := range c.Lines {
			list = append(list, l.X...)
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	step := stride(x.to - x.from)
	for v := math.Ceil(x.from/step) * step; v <= x.to*1.0001; v += step {
		list = append(list, v)
	}
	return list
}

// legend names the line of a number, in its colour.
func legend(out *strings.Builder, i int, name string) {
	at := float64(left + 12 + i*155)
	fmt.Fprintf(out, `<rect class="f%d" x="%.0f" y="%d" width="10" height="10"/>`, i%colours, at, top+4)
	label(out, at+16, top+13, "start", "", name)
}

func bars(out *strings.Builder, list []Bar, y scale) {
	room := float64(right-left) / float64(len(list))
	for i, b := range list {
		at, high := left+room*(float64(i)+0.2), y.place(b.Value)
		fmt.Fprintf(out, `<rect class="f%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`+"\n", i%colours, at, high, room*0.6, bottom-high)
		label(out, at+room*0.3, high-6, "middle", "", number(b.Value))
		label(out, at+room*0.3, bottom+18, "middle", "", b.Name)
	}
}

func stroke(out *strings.Builder, class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(out, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", class, x1, y1, x2, y2)
}

func label(out *strings.Builder, x, y float64, anchor, class, text string) {
	if text == "" {
		return
	}
	fmt.Fprintf(out, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", cmp.Or(class, "label"), x, y, anchor, escape(text))
}

func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text)) // a Builder takes everything
	return out.String()
}

// number writes a value as people do: three digits, and thousands and millions by a letter.
func number(v float64) string {
	switch {
	case v >= 1e6:
		return number(v/1e6) + "M"
	case v >= 1e4:
		return number(v/1e3) + "k"
	case v >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
