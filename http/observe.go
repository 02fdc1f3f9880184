package http

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
)

// Observer hears of each request that was answered: the status of the answer and how long it
// took, 0 if it was refused unread. It is called on the way to the caller, so it must be quick.
type Observer func(status int, took time.Duration)

// unrouted is what stands for the route of a request that none is for, and for its method if that
// is none of HTTP's: what strangers make up is not told to those who count.
const unrouted = "none"

// route is one of ours, as Fiber spells it.
type route struct{ method, path string }

// watch are the observers of all routes.
type watch struct {
	routes   map[route]Observer
	unrouted map[string]Observer // by method
	inFlight atomic.Int64
}

// observe makes the observers, once all routes are there.
func (e *Edge) observe() {
	e.watch.routes, e.watch.unrouted = map[route]Observer{}, map[string]Observer{}
	for _, r := range e.app.GetRoutes(true) {
		e.watch.routes[route{r.Method, r.Path}] = e.Observe(r.Method, r.Path)
	}
	for _, method := range slices.Concat(fiber.DefaultMethods, []string{unrouted}) {
		e.watch.unrouted[method] = e.Observe(method, unrouted)
	}
}

// observed is around everything that Fiber calls.
func (e *Edge) observed(c *fiber.Ctx) error {
	if e.Observe == nil {
		return c.Next()
	}
	e.watch.inFlight.Add(1)
	defer e.watch.inFlight.Add(-1)
	began := time.Now()
	err := c.Next()
	status := c.Response().StatusCode()
	if err != nil { // which fail has yet to answer
		status = public(err).Code.Status()
	}
	e.observerOf(c)(status, time.Since(began))
	return err
}

// observerOf is that of the route which has taken a request.
func (e *Edge) observerOf(c *fiber.Ctx) Observer {
	taken := c.Route()
	if o := e.watch.routes[route{taken.Method, taken.Path}]; o != nil {
		return o
	}
	return e.watch.unrouted[c.Method()]
}

// observeUnrouted observes a request that no route can take: the server could not read it, or HTTP
// does not define its method.
func (e *Edge) observeUnrouted(status int) {
	if e.Observe != nil {
		e.watch.unrouted[unrouted](status, 0)
	}
}

// InFlight is how many requests are being answered.
func (e *Edge) InFlight() int64 { return e.watch.inFlight.Load() }
