package password

import "slices"

// Class is the group that a request waits with. Groups are served in turn, however many requests
// each of them has.
type Class struct {
	Network string // of the client, as network.Of returns it; "" for clients whose address is not known
	Known   bool   // the client has proved before that it is the account's owner, or an operator
}

// gate admits requests to a bounded number of places and keeps a bounded queue of the others.
//
// It has two lanes, one for known clients and one for strangers, which are served alternately
// while requests wait in both. Within a lane the networks take turns (round robin), and the
// requests of a network keep their order. So a request waits for one request of each other network, not
// for all that came before it. A full queue makes room for a newcomer at the expense of the
// largest network: see makeRoom.
//
// A place never stays empty while a request waits. A gate knows no time, and its owner locks it.
type gate struct {
	held    int // places that are taken
	waiting int
	lanes   [2]lane
	next    int // the lane whose turn it is
	history history
}

// history counts the places that each class was granted recently. It decides when more networks attack than may
// wait: a network that comes for the first time takes the place of one that was served before.
type history struct {
	last [128]Class
	n    int // grants so far
	of   map[Class]int
}

func (h *history) note(c Class) {
	if h.of == nil {
		h.of = map[Class]int{}
	}
	slot := &h.last[h.n%len(h.last)]
	if h.n >= len(h.last) {
		if h.of[*slot]--; h.of[*slot] == 0 {
			delete(h.of, *slot)
		}
	}
	*slot = c
	h.of[c]++
	h.n++
}

// The lanes.
const (
	strangers = iota
	acquainted
)

// lane is the queue of either strangers or known clients.
type lane struct {
	flows   map[string]*flow // by network, as long as it holds a place or waits
	turns   []*flow          // the flows that wait, in the order of their turns
	waiting int
}

// flow is what one network has in a lane.
type flow struct {
	class Class
	held  int
	queue []*ticket
}

// size is how much of the gate a flow takes up.
func (f *flow) size() int { return f.held + len(f.queue) }

// weight is the size of a flow plus its recent grants.
func (g *gate) weight(f *flow) int { return f.size() + g.history.of[f.class] }

// ticket is a request at a gate.
type ticket struct {
	class   Class
	state   ticketState
	excess  bool          // it was refused while its network had more than an even share
	decided chan struct{} // closed when it is granted a place or refused
}

type ticketState int

const (
	queued ticketState = iota
	granted
	refused
	gone // it has left its place, or has given up
)

func newTicket(class Class) *ticket { return &ticket{class: class, decided: make(chan struct{})} }

func (t *ticket) decide(state ticketState) {
	t.state = state
	close(t.decided)
}

// enter lets a ticket in, puts it into the queue, or refuses it. places bounds the requests inside,
// and room those that wait. It returns the ticket that it refused, if any: the new one, or one
// that had waited.
func (g *gate) enter(t *ticket, places, room int) (out *ticket) {
	l := g.laneOf(t)
	f := l.flow(t.class)
	switch {
	case g.held < places && g.waiting == 0:
		g.grant(f, t)
		return nil
	case g.waiting >= room:
		if out = g.makeRoom(l, f, room); out == nil {
			g.refuse(l, f, t)
			return t
		}
	}
	if len(f.queue) == 0 {
		l.turns = append(l.turns, f)
	}
	f.queue = append(f.queue, t)
	l.waiting++
	g.waiting++
	g.fill(places)
	return out
}

// makeRoom refuses a waiting ticket in favour of a newcomer of a flow, and returns it; nil if the
// newcomer has no better claim than any of them.
//
// Each lane has a claim to half of the queue. If the newcomer's lane has less, the other lane pays;
// otherwise the newcomer's own lane does, if its largest network is larger than the newcomer's would be. It is
// the newest ticket of the largest network that goes: the network keeps its oldest ones, which
// have waited the longest.
func (g *gate) makeRoom(l *lane, f *flow, room int) *ticket {
	victims, from := l, g.largest(l)
	if other, claim := g.other(l, room); l.waiting < claim && other.waiting > 0 {
		victims, from = other, g.largest(other)
	} else if from == nil || g.weight(from) <= g.weight(f)+1 {
		return nil
	}
	t := from.queue[len(from.queue)-1]
	g.withdraw(t)
	g.refuse(victims, from, t)
	return t
}

// other returns the lane beside l, and l's claim to the queue. Known clients have the larger half of
// an odd number.
func (g *gate) other(l *lane, room int) (other *lane, claim int) {
	if l == &g.lanes[acquainted] {
		return &g.lanes[strangers], (room + 1) / 2
	}
	return &g.lanes[acquainted], room / 2
}

// refuse decides against a ticket, and notes whether its network had more than its even share.
func (g *gate) refuse(l *lane, f *flow, t *ticket) {
	weight, all := g.weight(f)+1, g.held+g.waiting+1+min(g.history.n, len(g.history.last))
	t.excess = weight > 1 && weight*max(1, len(g.history.of)) >= all
	t.decide(refused)
	l.forget(f)
}

// leave gives up the place of a ticket, or its turn, and grants places to waiting requests. It does
// nothing for a ticket that was refused or has left already.
func (g *gate) leave(t *ticket, places int) {
	l := g.laneOf(t)
	switch f := l.flows[t.class.Network]; t.state {
	case granted:
		f.held--
		g.held--
		l.forget(f)
	case queued:
		g.withdraw(t)
		l.forget(f)
	default:
		return
	}
	t.state = gone
	g.fill(places)
}

// fill grants the places that are free to requests that wait.
func (g *gate) fill(places int) {
	for g.held < places && g.waiting > 0 {
		g.serve()
	}
}

// serve grants a place to the request whose turn it is.
func (g *gate) serve() {
	l := &g.lanes[g.next]
	if l.waiting == 0 {
		l = &g.lanes[1-g.next]
	} else {
		g.next = 1 - g.next
	}
	f := l.turns[0]
	t := f.queue[0]
	g.withdraw(t)
	if len(f.queue) > 0 { // its next turn comes after those of all others
		l.turns = append(l.turns[1:], f)
	}
	g.grant(f, t)
}

func (g *gate) grant(f *flow, t *ticket) {
	f.held++
	g.held++
	g.history.note(t.class)
	t.decide(granted)
}

// withdraw takes a ticket out of the queue.
func (g *gate) withdraw(t *ticket) {
	l := g.laneOf(t)
	f := l.flows[t.class.Network]
	i := slices.Index(f.queue, t)
	f.queue = slices.Delete(f.queue, i, i+1)
	if len(f.queue) == 0 {
		i := slices.Index(l.turns, f)
		l.turns = slices.Delete(l.turns, i, i+1)
	}
	l.waiting--
	g.waiting--
}

func (g *gate) laneOf(t *ticket) *lane {
	if t.class.Known {
		return &g.lanes[acquainted]
	}
	return &g.lanes[strangers]
}

// flow returns the flow of a network, which it makes if necessary.
func (l *lane) flow(c Class) *flow {
	f := l.flows[c.Network]
	if f == nil {
		f = &flow{class: c}
		if l.flows == nil {
			l.flows = map[string]*flow{}
		}
		l.flows[c.Network] = f
	}
	return f
}

// forget drops a flow that has nothing any more.
func (l *lane) forget(f *flow) {
	if f.size() == 0 {
		delete(l.flows, f.class.Network)
	}
}

// largest returns the waiting flow of a lane with the most weight, or nil.
func (g *gate) largest(l *lane) (most *flow) {
	for _, f := range l.turns {
		if most == nil || g.weight(f) >= g.weight(most) { // of equals, the one whose turn is the last
			most = f
		}
	}
	return most
}
