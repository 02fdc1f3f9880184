package http

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/zyotra/auth"
)

// serve is around everything that answers a request: a panic ends the request and not the process, and
// what Fiber would answer in its own words is refused here.
func (e *Edge) serve(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		defer func() {
			if p := recover(); p != nil {
				ctx.Response.Reset()
				e.reject(ctx, "", fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		if c, ok := ctx.Conn().(*conn); ok {
			if !c.answer() {
				ctx.SetConnectionClose()
				return
			}
			if c.framer.phase == unframed {
				ctx.SetConnectionClose()
			}
		}
		if isGatewayTarget(ctx.Request.Header.RequestURI()) {
			e.serveGateway(ctx, next)
			return
		}
		e.serveMethod(ctx, next)
	}
}

// serveMethod refuses methods that HTTP does not define.
func (e *Edge) serveMethod(ctx *fasthttp.RequestCtx, next fasthttp.RequestHandler) {
	if slices.Contains(fiber.DefaultMethods, string(ctx.Method())) {
		next(ctx)
		return
	}
	e.reject(ctx, "", auth.ErrMalformed)
}

// askedMethod is where serveGateway keeps the method of a request.
type askedMethod struct{}

// serveGateway answers a request for verifyPath. Some gateways ask with the method and the path of
// their client's request: what stands below verifyPath, and the query then, is the client's and is not
// read, and every method is answered as GET is. The path is taken as it was sent, before anything
// resolves "..": the client of a gateway must not choose another route.
func (e *Edge) serveGateway(ctx *fasthttp.RequestCtx, next fasthttp.RequestHandler) {
	target := ctx.Request.Header.RequestURI()
	isBelow := len(target) > len(verifyPath) && target[len(verifyPath)] == '/'
	if !isBelow && (ctx.IsGet() || ctx.IsHead() || ctx.IsOptions()) {
		next(ctx)
		return
	}
	method := string(ctx.Method())
	if isBelow {
		ctx.Request.SetRequestURI(verifyPath)
	}
	ctx.SetUserValue(askedMethod{}, method)
	ctx.Request.Header.SetMethod(fiber.MethodGet)
	next(ctx)
	ctx.Request.Header.SetMethod(method) // the answer to HEAD has no body
}

// refuseUnread answers a request that the server could not read: it is ill-framed, too large or too
// slow. The server's error may quote the request, so it is not logged.
func (e *Edge) refuseUnread(ctx *fasthttp.RequestCtx, err error) {
	defer func() {
		if p := recover(); p != nil {
			e.Log.Error("request failed", "err", fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	var refusal error = auth.ErrMalformed
	if errors.Is(err, fasthttp.ErrBodyTooLarge) {
		refusal = auth.ErrPayloadTooLarge
	}
	var origin string
	if c, ok := ctx.Conn().(*conn); ok {
		c.linger.Store(true)
		origin = string(c.framer.head.origin)
		if c.refusal != nil {
			refusal = c.refusal
		}
		if c.framer.phase == overflowed {
			e.logOverflow(c)
		}
	}
	e.reject(ctx, origin, refusal)
}

// logOverflow logs that headers were too large, at most once a second.
func (e *Edge) logOverflow(c *conn) {
	now := time.Now().Unix()
	if last := e.logged.Load(); last == now || !e.logged.CompareAndSwap(last, now) {
		return
	}
	e.Log.Warn("request refused: its headers are too large", "most", maxHeaderBytes, "peer", c.RemoteAddr().String(), "gateway", c.framer.head.gateway)
}

// reject answers a request that reaches no route.
func (e *Edge) reject(ctx *fasthttp.RequestCtx, origin string, err error) {
	c := e.app.AcquireCtx(ctx)
	defer e.app.ReleaseCtx(c)
	if len(e.Origins) > 0 {
		e.share(c, origin)
	}
	if err := e.fail(c, err); err != nil {
		e.Log.Error("write problem", "err", err)
	}
	e.observeUnrouted(ctx.Response.StatusCode())
}
