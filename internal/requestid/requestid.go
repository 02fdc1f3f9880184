// Package requestid names requests, so that the lines of a log that belong to one are found
// together, in whichever process they were written. An id says nothing of who asks and lets
// nobody do anything.
package requestid

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"time"
)

// Header is where an id travels on the bus. Names of NATS headers are case-sensitive.
const Header = "Request-Id"

// maxBytes is the longest id that is taken from others: a token is longer.
const maxBytes = 64

// ID is an id as text: a UUIDv7 (RFC 9562 §5.7).
type ID [36]byte

// New makes an id. It allocates nothing, and is not random enough for a secret.
func New() ID {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixMilli())<<16|rand.Uint64()&0x0fff|0x7000)
	binary.BigEndian.PutUint64(b[8:], rand.Uint64()&^(3<<62)|1<<63)
	var id ID
	hex.Encode(id[:], b[:4])
	hex.Encode(id[9:], b[4:6])
	hex.Encode(id[14:], b[6:8])
	hex.Encode(id[19:], b[8:10])
	hex.Encode(id[24:], b[10:])
	id[8], id[13], id[18], id[23] = '-', '-', '-', '-'
	return id
}

// IsSane tells whether an id that somebody else made may stand in a log: 1 to 64 letters, digits
// and "-_.".
func IsSane[T string | []byte](id T) bool {
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return len(id) > 0 && len(id) <= maxBytes
}

// Context is a context that knows the id of its request. It may be part of what is allocated for
// the request anyway; Name makes it one.
type Context struct {
	context.Context
	length int
	text   [maxBytes]byte
}

// Name makes c a context within parent, of a request that came with an id. One that is not sane
// is replaced.
func Name[T string | []byte](c *Context, parent context.Context, id T) {
	c.Context = parent
	if IsSane(id) {
		c.length = copy(c.text[:], id)
		return
	}
	made := New()
	c.length = copy(c.text[:], made[:])
}

type key struct{}

// Value is that of context.Context.
func (c *Context) Value(k any) any {
	if k == (key{}) {
		return c
	}
	return c.Context.Value(k)
}

// With returns a context within ctx of a request that has an id; one that is not sane is replaced.
func With(ctx context.Context, id string) context.Context {
	var c Context
	Name(&c, ctx, id)
	return &c
}

// From returns the id of the request that is being answered within ctx, or "".
func From(ctx context.Context) string {
	if c, named := ctx.Value(key{}).(*Context); named {
		return string(c.text[:c.length])
	}
	return ""
}
