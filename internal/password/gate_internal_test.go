package password

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// line is a gate of one place whose tickets are called by their networks.
type line struct {
	*testing.T
	gate
	names map[*ticket]string
	order []*ticket
	room  int
}

func newLine(t *testing.T, room int) *line {
	return &line{T: t, names: map[*ticket]string{}, room: room}
}

// come lets tickets in, such as "a1", "a2": the letter is the network, a capital one's clients are
// known. It returns the names of the refused ones.
func (l *line) come(names ...string) (out []string) {
	for _, name := range names {
		t := newTicket(Class{Network: strings.ToLower(name[:1]), Known: name[:1] != strings.ToLower(name[:1])})
		l.names[t] = name
		l.order = append(l.order, t)
		if refused := l.enter(t, 1, l.room); refused != nil {
			out = append(out, l.names[refused])
		}
	}
	return out
}

// serveAll serves all tickets one after the other and returns their names.
func (l *line) serveAll() (served []string) {
	for l.held > 0 {
		for _, t := range l.order {
			if t.state == granted {
				served = append(served, l.names[t])
				l.leave(t, 1)
				break
			}
		}
	}
	return served
}

func (l *line) want(what string, got []string, want ...string) {
	l.Helper()
	if !slices.Equal(got, want) {
		l.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestNetworksTakeTurns(t *testing.T) {
	t.Parallel()
	l := newLine(t, 100)
	l.come("a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1")
	l.want("served", l.serveAll(), "a1", "a2", "b1", "c1", "a3", "b2", "a4", "a5")
}

func TestKnownClientsAndStrangersAreServedAlternately(t *testing.T) {
	t.Parallel()
	l := newLine(t, 100)
	l.come("a1", "a2", "a3", "b1", "c1", "A1", "A2", "D1")
	l.want("served", l.serveAll(), "a1", "a2", "A1", "b1", "D1", "c1", "A2", "a3")
}

func TestAFullQueueMakesRoomAtTheExpenseOfTheLargest(t *testing.T) {
	t.Parallel()
	l := newLine(t, 4)
	l.want("alone", l.come("a1", "a2", "a3", "a4", "a5", "a6"), "a6")
	l.want("others", l.come("b1", "c1"), "a5", "a4")
	l.want("a second one of another", l.come("b2", "b3"), "a3", "b3")
	l.want("more of the first", l.come("a7"), "a7")
	l.want("one more network", l.come("d1"), "a2")
	l.want("and another", l.come("e1"), "b2")
	l.want("when all have as much", l.come("f1"), "f1")
	l.want("served", l.serveAll(), "a1", "b1", "c1", "d1", "e1")
}

func TestKnownClientsHaveAClaimToHalfOfTheQueue(t *testing.T) {
	t.Parallel()
	l := newLine(t, 4)
	l.come("a1", "b1", "c1", "d1", "e1") // as many networks as may wait
	l.want("strangers", l.come("f1"), "f1")
	l.want("known, though from a network that waits", l.come("B1", "F1"), "e1", "d1")
	l.want("more known than half", l.come("G1"), "G1")
	l.want("strangers again", l.come("g1"), "g1")
	l.want("served", l.serveAll(), "a1", "b1", "B1", "c1", "F1")

	l = newLine(t, 3)
	l.come("A1", "B1", "C1", "D1")
	l.want("strangers have half as well", l.come("e1", "f1"), "D1", "f1")
}

// While one network, or eight, keep the queue full, each request of another one is served before two of
// any of them.
func TestNobodyWaitsForAFlood(t *testing.T) {
	t.Parallel()
	for _, attackers := range []int{1, 8} {
		const places, room, honest = 4, 20, 40
		g := gate{}
		var inside []*ticket
		enter := func(network string) *ticket {
			t := newTicket(Class{Network: network})
			g.enter(t, places, room)
			inside = append(inside, t)
			return t
		}
		flood := func() { // more than the queue takes
			for i := range room + attackers {
				enter(fmt.Sprint("attacker ", i%attackers))
			}
		}
		serve := func() { // the one who has held a place for the longest
			i := slices.IndexFunc(inside, func(t *ticket) bool { return t.state == granted })
			g.leave(inside[i], places)
			inside = slices.DeleteFunc(inside, func(t *ticket) bool { return t.state == gone || t.state == refused })
		}
		flood()
		for i := range honest {
			mine, waited := enter(fmt.Sprint("honest ", i)), 0
			for ; mine.state == queued; waited++ {
				serve()
				flood()
			}
			if mine.state != granted || waited > attackers+1 {
				t.Fatalf("%d attackers, request %d: state %d after %d others", attackers, i, mine.state, waited)
			}
		}
	}
}

// Where more networks attack than may wait, one that comes for the first time is served.
func TestANewNetworkGoesBeforeThoseThatComeAgain(t *testing.T) {
	t.Parallel()
	const attackers = 8
	l := newLine(t, 1)
	refill := func() {
		for i := range 3 * attackers {
			l.come(string(rune('a'+i%attackers)) + "1")
		}
	}
	for range attackers { // each of them is served once
		refill()
		l.leave(l.order[slices.IndexFunc(l.order, func(t *ticket) bool { return t.state == granted })], 1)
	}
	refill()
	if out := l.come("z1"); len(out) != 1 || out[0] == "z1" {
		t.Errorf("%v made room", out)
	}
	l.want("but once", l.come("z2"), "z2")
}

// For any sequence of requests, no place is empty while a request waits, bounds hold, each ticket is
// decided once, and nothing is left behind.
func FuzzGate(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 200, 201, 202, 8, 9, 210, 220})
	f.Add(slices.Repeat([]byte{0, 0, 1, 17, 130, 2}, 50))
	f.Fuzz(func(t *testing.T, steps []byte) {
		const places, room = 3, 5
		g := gate{}
		var all []*ticket
		for _, step := range steps {
			if step < 128 || len(all) == 0 {
				in := newTicket(Class{Network: fmt.Sprint(step % 7), Known: step%16 > 7})
				all = append(all, in)
				if out := g.enter(in, places, room); out != nil && out.state != refused {
					t.Fatalf("refused, with state %d", out.state)
				}
			} else {
				g.leave(all[int(step)%len(all)], places)
			}
			held, waiting := count(all, granted), count(all, queued)
			if held != g.held || waiting != g.waiting || held > places || waiting > room || held < places && waiting > 0 {
				t.Fatalf("%d held of %d, %d waiting of %d, and %+v", held, places, waiting, room, g)
			}
		}
		for _, in := range all {
			g.leave(in, places)
		}
		if g.held != 0 || g.waiting != 0 || len(g.lanes[strangers].flows)+len(g.lanes[acquainted].flows) != 0 {
			t.Fatalf("left behind: %+v", g)
		}
	})
}

func count(all []*ticket, state ticketState) (n int) {
	for _, t := range all {
		if t.state == state {
			n++
		}
	}
	return n
}
