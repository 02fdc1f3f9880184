// Package rawhttp is a client that costs less than any server: it writes requests as they are
// and looks at no more of an answer than it must. It understands Content-Length alone.
package rawhttp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
)

// Conn is a connection that is kept. It is used by one goroutine at a time.
type Conn struct {
	conn   net.Conn
	answer *bufio.Reader
	body   []byte
}

// Dial connects to the host of a URL like http://127.0.0.1:3000.
func Dial(url string) (*Conn, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return nil, err
	}
	return &Conn{conn: conn, answer: bufio.NewReader(conn)}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// Get is a GET request to be sent by Do. Headers are whole lines.
func Get(path string, headers ...string) []byte {
	return request("GET", path, "", headers)
}

// Post is a POST request with JSON.
func Post(path, body string) []byte {
	return request("POST", path, body, []string{"Content-Type: application/json", "Content-Length: " + strconv.Itoa(len(body))})
}

func request(method, path, body string, headers []string) []byte {
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: localhost"}, headers...)
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

// Do sends a request and returns the body of the answer, which is good until the next one.
// Anything but 200 is an error, after which the connection is as good as before.
func (c *Conn) Do(request []byte) ([]byte, error) {
	if _, err := c.conn.Write(request); err != nil {
		return nil, err
	}
	line, err := c.answer.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	status := string(bytes.TrimRight(line, "\r\n"))
	length, err := c.length()
	if err != nil {
		return nil, err
	}
	c.body = append(c.body[:0], make([]byte, length)...)
	if _, err := io.ReadFull(c.answer, c.body); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		return nil, errors.New(status)
	}
	return c.body, nil
}

// length reads the header to its end.
func (c *Conn) length() (n int, err error) {
	for {
		line, err := c.answer.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return n, nil
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if n, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
		}
	}
}
