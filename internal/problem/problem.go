// Package problem writes an error the way HTTP tells it: an RFC 9457 problem with code and
// message as on the bus, and the headers that its status asks for.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/zyotra/auth"
)

// ContentType is the media type of a problem (RFC 9457 §3).
const ContentType = "application/problem+json"

// typePrefix begins the type of every problem; the code ends it.
const typePrefix = "urn:zyotra:auth:problem:"

// Problem is a whole answer. Header holds one value a name, canonically spelled.
type Problem struct {
	Status int
	Header map[string]string
	Body   []byte
}

// document is the body.
type document struct {
	Type       string       `json:"type"`
	Title      string       `json:"title"`
	Status     int          `json:"status"`
	Detail     string       `json:"detail"`
	Code       auth.Code    `json:"code"`
	Message    string       `json:"message"`
	Fields     []auth.Field `json:"fields,omitempty"`
	RetryAfter int64        `json:"retryAfter,omitempty"`
}

// Of returns the answer to a request that failed with err, of which it tells what auth.Public
// does. It is for no cache to keep.
func Of(err error) Problem {
	public := auth.Public(err)
	status := public.Code.Status()
	header := map[string]string{"Content-Type": ContentType, "Cache-Control": "no-store"}
	switch status {
	case http.StatusUnauthorized:
		header["Www-Authenticate"] = challenge(public.Code)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		header["Retry-After"] = strconv.FormatInt(max(1, public.RetryAfter), 10)
	}
	body, err := json.Marshal(document{
		Type: typePrefix + string(public.Code), Title: http.StatusText(status), Status: status,
		Detail: public.Message, Code: public.Code, Message: public.Message, Fields: public.Fields,
		RetryAfter: public.RetryAfter,
	})
	if err != nil {
		panic(err) // strings and a number
	}
	return Problem{Status: status, Header: header, Body: body}
}

// challenge says how to authenticate (RFC 6750 §3): no error where no token was presented.
func challenge(code auth.Code) string {
	switch code {
	case auth.CodeInvalidToken, auth.CodeTokenExpired, auth.CodeTokenRevoked:
		return `Bearer realm="zyotra", error="invalid_token"`
	}
	return `Bearer realm="zyotra"`
}
