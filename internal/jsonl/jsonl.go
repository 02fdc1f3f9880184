// Package jsonl reads accounts from JSON lines: one object a line, of documented members only.
//
//	{"id":7,"email":"ada@example.com","name":"Ada","password":"$2b$10$…","createdAt":"2024-05-06T07:08:09Z","updatedAt":"2024-05-06T07:08:09Z"}
//
// All but email and password may be left out. What the members hold is not checked here.
package jsonl

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/zyotra/auth/internal/strictjson"
)

// MaxLine is the longest line that is read, in bytes, its end included.
const MaxLine = 64 << 10

// ErrMalformed means that a line is not such an object. The next one can be read.
var ErrMalformed = errors.New("not an account")

// Account is one line.
type Account struct {
	ID        *int64    `json:"id"` // nil if there is none
	Email     string    `json:"email"`
	Name      string    `json:"name"`
	Password  string    `json:"password"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// Reader reads lines. Make it with NewReader.
type Reader struct {
	in   *bufio.Reader
	line int
}

// NewReader makes a Reader.
func NewReader(r io.Reader) *Reader { return &Reader{in: bufio.NewReaderSize(r, MaxLine)} }

// Line is the number of the line that Next returned, from 1.
func (r *Reader) Line() int { return r.line }

// Next returns the account of the next line that is not blank. A byte order mark before the first
// line is ignored. It returns ErrMalformed, io.EOF
// at the end, or the error of what it reads from.
func (r *Reader) Next() (Account, error) {
	for {
		line, err := r.next()
		if err != nil {
			return Account{}, err
		}
		if len(bytes.Trim(line, " \t\r\n")) == 0 {
			continue
		}
		var a Account
		if err := strictjson.Unmarshal(line, &a); err != nil {
			return Account{}, ErrMalformed
		}
		return a, nil
	}
}

// next returns the next line; the last one may lack its end.
func (r *Reader) next() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	if len(line) > 0 {
		r.line++
	}
	if r.line == 1 {
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
	}
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, r.pass()
	case errors.Is(err, io.EOF) && len(line) > 0:
		return line, nil
	}
	return line, err
}

// pass passes over the rest of a line that is too long.
func (r *Reader) pass() error {
	for {
		_, err := r.in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil, errors.Is(err, io.EOF):
			return ErrMalformed
		}
		return err
	}
}
