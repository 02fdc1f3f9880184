package http

import (
	"bufio"
	"io"
	"net"
	nethttp "net/http"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// A refusal is answered wherever the reads of the server divide the request: it takes a connection
// that ends after empty lines alone for one that the client closed.
func TestRefusalIsAnsweredHoweverTheRequestIsRead(t *testing.T) {
	t.Parallel()
	for _, pieces := range [][]string{
		{"\r\n\r\n"},
		{"\r\n", "\r\n"},
		{"\r", "\n", "\r", "\n"},
		{"\r\n", "noise\r\n"},
		{"\r\n", "noise", "\r\n"},
		{"GET / HTTP/1.1\r\n", "\r\n"},
		{"GET / HTTP/1.1\r\n\r", "\n"},
		{"GET / HTTP/1.1\r\nHost: a\r\n", "b c: d\r\n"},
	} {
		ours, theirs := net.Pipe()
		if err := ours.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		c := &conn{Conn: theirs, listener: &listener{freed: make(chan struct{}, 1), open: map[*conn]struct{}{}}}
		server := fasthttp.Server{
			Handler:      func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(fasthttp.StatusOK) },
			ErrorHandler: func(ctx *fasthttp.RequestCtx, err error) { ctx.SetStatusCode(fasthttp.StatusTeapot) },
		}
		go func() { _ = server.ServeConn(c) }() // its error is the refusal
		go func() {
			for _, piece := range pieces { // each is one read of the server
				_, _ = io.WriteString(ours, piece)
			}
		}()
		reply, err := nethttp.ReadResponse(bufio.NewReader(ours), nil)
		if err != nil || reply.StatusCode != fasthttp.StatusTeapot {
			t.Errorf("%q: %v, %v", pieces, reply, err)
		}
		ours.Close()
	}
}
