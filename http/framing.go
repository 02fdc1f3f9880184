package http

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/zyotra/auth"
)

// errFraming refuses a request whose head is not what RFC 9112 wants, so that no two servers on its
// way can disagree where it ends. Nothing of it is answered but the refusal, and the connection ends.
var errFraming = fmt.Errorf("%w: framing", auth.ErrMalformed)

// framer checks the head of each request of a connection before the server parses it, and finds where
// the request ends (RFC 9112 §2 to §6). It accepts less than the server does: lines end in CRLF, no
// field spans two lines, names are tokens, and a body has one Content-Length or is chunked. The zero
// value expects a request.
type framer struct {
	phase phase
	size  int    // of the head so far, in bytes
	line  []byte // begin of a line that ends in a later read
	left  int64  // of the body, in bytes
	head  head
}

// phase is the part of a request that comes next.
type phase uint8

const (
	between    phase = iota // the first byte of a request
	inHead                  // the request line, or one empty line before it
	inFields                // a field line, or the empty line after them
	inBody                  // the rest of a body of known length
	unframed                // anything: the connection ends after this request
	overflowed              // the rest of a head that is too large
)

// head is what framing depends on.
type head struct {
	skipped bool   // an empty line before the request line
	http10  bool   // the version is HTTP/1.0
	gateway bool   // it asks for verifyPath or below
	encoded bool   // it has Content-Encoding
	chunked bool   // it has Transfer-Encoding: chunked
	sized   bool   // it has Content-Length
	length  int64  // Content-Length
	hosts   int    // number of Host fields
	origin  []byte // value of Origin
}

// check reads on in b. It returns how many bytes it took for the request under way, which has ended if
// phase is between, and the error that refuses it.
func (f *framer) check(b []byte) (n int, err error) {
	if f.phase == between {
		f.begin()
	}
	for n < len(b) {
		switch f.phase {
		case inBody:
			part := min(f.left, int64(len(b)-n))
			n, f.left = n+int(part), f.left-part
			if f.left == 0 {
				f.phase = between
				return n, nil
			}
			continue
		case unframed:
			return len(b), nil
		}
		end := bytes.IndexByte(b[n:], '\n') + 1
		line := b[n : n+end]
		if end == 0 {
			line = b[n:]
		}
		if f.size += len(line); f.size > maxHeaderBytes {
			return n, f.overflow()
		}
		n += len(line)
		if end == 0 {
			f.line = append(f.line, line...)
			return n, nil
		}
		if len(f.line) > 0 {
			f.line = append(f.line, line...)
			line = f.line
		}
		if err := f.read(line); err != nil {
			return n, err
		}
		f.line = f.line[:0]
		if f.phase == between {
			return n, nil
		}
	}
	return n, nil
}

// begin expects a request.
func (f *framer) begin() {
	f.phase, f.size, f.line = inHead, 0, f.line[:0]
	f.head = head{origin: f.head.origin[:0]}
}

// read takes a whole line of the head.
func (f *framer) read(line []byte) error {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok { // RFC 9112 §2.2 allows a bare LF, and §11.2 says what comes of it
		return errFraming
	}
	if f.phase == inFields {
		if len(text) == 0 {
			return f.end()
		}
		return f.field(text)
	}
	if len(text) == 0 && !f.head.skipped {
		f.head.skipped = true
		return nil
	}
	f.phase = inFields
	return f.requestLine(text)
}

// requestLine checks "method SP request-target SP HTTP-version" (RFC 9112 §3).
func (f *framer) requestLine(line []byte) error {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, ok := bytes.Cut(rest, []byte(" "))
	if !ok || !isToken(method) || !isTarget(target) {
		return errFraming
	}
	f.head.gateway = isGatewayTarget(target)
	switch string(version) {
	case "HTTP/1.1":
		return nil
	case "HTTP/1.0":
		f.head.http10 = true
		return nil
	}
	if len(version) == len("HTTP/1.1") && string(version[:5]) == "HTTP/" && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]) {
		return auth.ErrVersionUnsupported
	}
	return errFraming
}

// field checks a field line (RFC 9112 §5) and remembers the fields that framing depends on. What else
// is wrong with a value, the server finds: it takes no control characters.
func (f *framer) field(line []byte) error {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 || !isToken(line[:colon]) { // a folded line begins with a space, which is no token either
		return errFraming
	}
	name, h := line[:colon], &f.head
	switch len(name) { // most fields are none of these
	case len("Host"):
		if bytes.EqualFold(name, []byte("Host")) {
			h.hosts++
		}
	case len("Origin"):
		if bytes.EqualFold(name, []byte("Origin")) {
			h.origin = append(h.origin[:0], bytes.Trim(line[colon+1:], " \t")...)
		}
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			return h.setLength(bytes.Trim(line[colon+1:], " \t"))
		}
	case len("Content-Encoding"):
		if bytes.EqualFold(name, []byte("Content-Encoding")) {
			h.encoded = true
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			if h.chunked || !bytes.EqualFold(bytes.Trim(line[colon+1:], " \t"), []byte("chunked")) {
				return errFraming
			}
			h.chunked = true
		}
	}
	return nil
}

// setLength reads Content-Length, which may be there once (RFC 9112 §6.3).
func (h *head) setLength(value []byte) error {
	if h.sized || len(value) == 0 || !isDigit(value[0]) { // ParseInt would take a sign
		return errFraming
	}
	length, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return errFraming
	}
	h.sized, h.length = true, length
	return nil
}

// end decides on a whole head.
func (f *framer) end() error {
	h := &f.head
	if h.hosts != 1 && !(h.http10 && h.hosts == 0) || h.chunked && (h.sized || h.http10) {
		return errFraming
	}
	if h.encoded && (h.chunked || h.length > 0) {
		return auth.ErrUnsupportedMedia
	}
	switch {
	case h.chunked:
		f.phase = unframed
	case h.length > 0:
		f.phase, f.left = inBody, h.length
	default:
		f.phase = between
	}
	return nil
}

// overflow returns the error that refuses a head of more than maxHeaderBytes. A gateway asks with the
// cookies of its client, and turns every refusal but 401 and 403 into an error of its own.
func (f *framer) overflow() error {
	f.phase = overflowed
	if f.head.gateway {
		return errGatewayHeaders
	}
	return auth.ErrHeadersTooLarge
}

var errGatewayHeaders = fmt.Errorf("%w: %w", auth.ErrForbidden, errors.New("headers too large"))

// keptOfLine is how much is kept of a line of a head that is too large: enough for an origin.
const keptOfLine = 512

// keep appends to the unfinished line as much as keptOfLine allows.
func (f *framer) keep(part []byte) {
	room := max(0, keptOfLine-len(f.line))
	f.line = append(f.line, part[:min(room, len(part))]...)
}

// skip reads on in a head that is too large, for its Origin alone. It reports whether the head ended.
func (f *framer) skip(b []byte) (ended bool) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n') + 1
		if end == 0 {
			f.keep(b)
			return false
		}
		f.keep(b[:end])
		b = b[end:]
		text := bytes.TrimRight(f.line, "\r\n")
		f.line = f.line[:0]
		if len(text) == 0 {
			return true
		}
		if name, value, ok := bytes.Cut(text, []byte(":")); ok && bytes.EqualFold(name, []byte("Origin")) {
			f.head.origin = append(f.head.origin[:0], bytes.Trim(value, " \t")...)
		}
	}
	return false
}

// isGatewayTarget reports whether a request-target is verifyPath, with a query or not, or below it.
func isGatewayTarget(target []byte) bool {
	rest, ok := bytes.CutPrefix(target, []byte(verifyPath))
	return ok && (len(rest) == 0 || rest[0] == '?' || rest[0] == '/')
}

// isToken reports whether b is a token (RFC 9110 §5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(b) > 0
}

// isTarget reports whether b may be a request-target: visible ASCII, and no fragment (RFC 9112 §3.2).
func isTarget(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' || c == '#' {
			return false
		}
	}
	return len(b) > 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// tokenBytes are the bytes of a token.
var tokenBytes = func() (is [256]bool) {
	for c := range is {
		is[c] = isDigit(byte(c)) || 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		is[c] = true
	}
	return is
}()
