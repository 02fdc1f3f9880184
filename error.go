package auth

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"
)

// Code names a kind of failure. Clients branch on it, so a released code keeps its spelling.
type Code string

// The codes of every failure, on the bus and over HTTP.
const (
	CodeMalformed          Code = "malformed_request"         // not JSON, wrong type, unknown or duplicate member
	CodeUnauthenticated    Code = "unauthenticated"           // no token
	CodeInvalidToken       Code = "invalid_token"             // not ours, or tampered with
	CodeTokenExpired       Code = "token_expired"             // past its exp
	CodeTokenRevoked       Code = "token_revoked"             // its session has ended
	CodeInvalidCredentials Code = "invalid_credentials"       // the one answer to every failed login
	CodeForbidden          Code = "forbidden"                 // made with a cookie, and not from a page that may
	CodeInsufficientScope  Code = "insufficient_scope"        // a required scope is missing
	CodeReauthentication   Code = "reauthentication_required" // the password, or a newer login
	CodeNotFound           Code = "not_found"                 // no such thing, or not the caller's
	CodeMethodNotAllowed   Code = "method_not_allowed"        // HTTP only
	CodePayloadTooLarge    Code = "payload_too_large"         // more than MaxRequestBytes
	CodeUnsupportedMedia   Code = "unsupported_media_type"    // HTTP only: not application/json, or with a Content-Encoding
	CodeHeadersTooLarge    Code = "headers_too_large"         // HTTP only: a head of more than 16 KiB
	CodeVersionUnsupported Code = "http_version_unsupported"  // HTTP only: neither HTTP/1.1 nor HTTP/1.0
	CodeEmailTaken         Code = "email_taken"               // the address has an account
	CodeConflict           Code = "conflict"                  // somebody else was faster
	CodeInvalid            Code = "validation_failed"         // see Fields
	CodeRateLimited        Code = "rate_limited"              // too many tries; see RetryAfter
	CodeInternal           Code = "internal"                  // nothing else is said
	CodeOverloaded         Code = "overloaded"                // shed on purpose; see RetryAfter
	CodeUnavailable        Code = "unavailable"               // a part is away; try again
)

// MaxRequestBytes bounds one request, on the bus and over HTTP.
const MaxRequestBytes = 64 << 10

// statuses is the only table from code to number.
var statuses = map[Code]int{
	CodeMalformed:          http.StatusBadRequest,
	CodeUnauthenticated:    http.StatusUnauthorized,
	CodeInvalidToken:       http.StatusUnauthorized,
	CodeTokenExpired:       http.StatusUnauthorized,
	CodeTokenRevoked:       http.StatusUnauthorized,
	CodeInvalidCredentials: http.StatusUnauthorized,
	CodeForbidden:          http.StatusForbidden,
	CodeInsufficientScope:  http.StatusForbidden,
	CodeReauthentication:   http.StatusForbidden,
	CodeNotFound:           http.StatusNotFound,
	CodeMethodNotAllowed:   http.StatusMethodNotAllowed,
	CodePayloadTooLarge:    http.StatusRequestEntityTooLarge,
	CodeUnsupportedMedia:   http.StatusUnsupportedMediaType,
	CodeHeadersTooLarge:    http.StatusRequestHeaderFieldsTooLarge,
	CodeVersionUnsupported: http.StatusHTTPVersionNotSupported,
	CodeEmailTaken:         http.StatusConflict,
	CodeConflict:           http.StatusConflict,
	CodeInvalid:            http.StatusUnprocessableEntity,
	CodeRateLimited:        http.StatusTooManyRequests,
	CodeInternal:           http.StatusInternalServerError,
	CodeOverloaded:         http.StatusServiceUnavailable,
	CodeUnavailable:        http.StatusServiceUnavailable,
}

// Codes are all of them, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(statuses)) }

// Status is the number of a code: the HTTP status, and the service error code on the bus.
// An unknown code is 500.
func (c Code) Status() int {
	if status, ok := statuses[c]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// Error is a failure its caller may see. Causes are wrapped around it and only logged.
type Error struct {
	Code       Code    `json:"code"`
	Message    string  `json:"message"`             // for people; never holds input or internals
	Fields     []Field `json:"fields,omitempty"`    // the members at fault, if some are
	RetryAfter int64   `json:"retryAfter,omitzero"` // seconds after which to try again, if that is known
}

// Field names a member of the request and what is wrong with it.
type Field struct {
	Field  string `json:"field"`  // the member's path, as in "client.ip"
	Reason string `json:"reason"` // a stable word, as in "too_short"
}

// The failures, without particulars. Compare with errors.Is, which looks at the code alone.
var (
	ErrMalformed          = &Error{Code: CodeMalformed, Message: "The request is malformed."}
	ErrUnauthenticated    = &Error{Code: CodeUnauthenticated, Message: "A token is required."}
	ErrInvalidToken       = &Error{Code: CodeInvalidToken, Message: "The token is not valid."}
	ErrTokenExpired       = &Error{Code: CodeTokenExpired, Message: "The token has expired."}
	ErrTokenRevoked       = &Error{Code: CodeTokenRevoked, Message: "The session of this token has ended."}
	ErrInvalidCredentials = &Error{Code: CodeInvalidCredentials, Message: "The address or the password is wrong."}
	ErrForbidden          = &Error{Code: CodeForbidden, Message: "The request is not allowed from there."}
	ErrInsufficientScope  = &Error{Code: CodeInsufficientScope, Message: "The token lacks a required scope."}
	ErrReauthentication   = &Error{Code: CodeReauthentication, Message: "Give the password, or log in again."}
	ErrNotFound           = &Error{Code: CodeNotFound, Message: "There is no such thing."}
	ErrMethodNotAllowed   = &Error{Code: CodeMethodNotAllowed, Message: "The method is not allowed here."}
	ErrPayloadTooLarge    = &Error{Code: CodePayloadTooLarge, Message: "The request is larger than 64 KiB."}
	ErrUnsupportedMedia   = &Error{Code: CodeUnsupportedMedia, Message: "The body must be application/json in UTF-8."}
	ErrHeadersTooLarge    = &Error{Code: CodeHeadersTooLarge, Message: "The headers are larger than 16 KiB."}
	ErrVersionUnsupported = &Error{Code: CodeVersionUnsupported, Message: "The service speaks HTTP/1.1."}
	ErrEmailTaken         = &Error{Code: CodeEmailTaken, Message: "The address has an account already."}
	ErrConflict           = &Error{Code: CodeConflict, Message: "The request conflicts with another one."}
	ErrInvalid            = &Error{Code: CodeInvalid, Message: "Some members of the request are not acceptable."}
	ErrRateLimited        = &Error{Code: CodeRateLimited, Message: "Too many tries; wait before the next one."}
	ErrInternal           = &Error{Code: CodeInternal, Message: "Something went wrong on our side."}
	ErrOverloaded         = &Error{Code: CodeOverloaded, Message: "The service has too much to do; try again."}
	ErrUnavailable        = &Error{Code: CodeUnavailable, Message: "The service cannot answer now; try again."}
)

func (e *Error) Error() string { return e.Message }

// Is matches by code, so errors.Is works on both sides of the bus.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With returns e with the members at fault named. e itself stays as it is.
func (e *Error) With(fields ...Field) *Error {
	with := *e
	with.Fields = fields
	return &with
}

// After returns e with the time after which to try again, in whole seconds and at least one.
// e itself stays as it is.
func (e *Error) After(wait time.Duration) *Error {
	with := *e
	with.RetryAfter = max(1, int64((wait+time.Second-1)/time.Second))
	return &with
}

// Public returns the part of err that may leave the process: the *Error inside it,
// ErrUnavailable if time ran out, or ErrInternal, which says nothing.
func Public(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return ErrUnavailable
	}
	return ErrInternal
}
