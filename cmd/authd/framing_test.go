package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rawConn is a connection on which requests are written as they stand.
type rawConn struct {
	net.Conn
	reader *bufio.Reader
}

func (a *instance) dial(t *testing.T) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.http, "http://"))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	return &rawConn{conn, bufio.NewReader(conn)}
}

// send writes text in one piece, or byte by byte.
func (w *rawConn) send(text string, byByte bool) {
	if !byByte {
		_, _ = io.WriteString(w, text) // the edge may have closed it already
		return
	}
	for i := range len(text) {
		if _, err := io.WriteString(w, text[i:i+1]); err != nil {
			return
		}
	}
}

// answer reads one answer.
func (w *rawConn) answer(t *testing.T) exchange {
	t.Helper()
	resp, err := http.ReadResponse(w.reader, nil)
	check(t, err)
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return exchange{Answer: message{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}}
}

// ends wants the connection to be closed without another answer.
func (w *rawConn) ends(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(w.reader)
	if len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after that: %q, %v", rest, err)
	}
}

const (
	alive     = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
	postLogin = "POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
)

// misframed are requests of which two servers could disagree where they end, or that are not HTTP/1.1.
var misframed = map[string]string{
	"noise":                        "\x16\x03\x01 hello\r\n\r\n",
	"two lengths":                  postLogin + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
	"two equal lengths":            postLogin + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
	"list of lengths":              postLogin + "Content-Length: 2, 2\r\n\r\n{}",
	"length and chunks":            postLogin + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"signed length":                postLogin + "Content-Length: +2\r\n\r\n{}",
	"hexadecimal length":           postLogin + "Content-Length: 0x2\r\n\r\n{}",
	"empty length":                 postLogin + "Content-Length:\r\n\r\n",
	"length without end":           postLogin + "Content-Length: 99999999999999999999\r\n\r\n{}",
	"unknown coding":               postLogin + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
	"no coding":                    postLogin + "Transfer-Encoding: identity\r\n\r\n{}",
	"two codings":                  postLogin + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"coding twice":                 postLogin + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"coding in HTTP/1.0":           "POST /login HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"folded field":                 "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
	"field folded by a tab":        "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
	"folded coding":                postLogin + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
	"folded first field":           "GET /healthz HTTP/1.1\r\n Host: a\r\n\r\n",
	"space before the colon":       "GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
	"tab before the colon":         postLogin + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
	"space in a name":              "GET /healthz HTTP/1.1\r\nHost: a\r\nX Y: a\r\n\r\n",
	"empty name":                   "GET /healthz HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
	"no colon":                     "GET /healthz HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
	"bare LF after a field":        "GET /healthz HTTP/1.1\r\nHost: a\nX: a\r\n\r\n",
	"bare LF after the request":    "GET /healthz HTTP/1.1\nHost: a\r\n\r\n",
	"bare LF at the end":           "GET /healthz HTTP/1.1\r\nHost: a\r\n\n",
	"bare LF all over":             "GET /healthz HTTP/1.1\nHost: a\n\n",
	"bare LF before the request":   "\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
	"bare CR in a value":           "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n",
	"NUL in a value":               "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
	"empty lines before":           "\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
	"no host":                      "GET /healthz HTTP/1.1\r\n\r\n",
	"two hosts":                    "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
	"two spaces after the method":  "GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
	"two spaces after the target":  "GET /healthz  HTTP/1.1\r\nHost: a\r\n\r\n",
	"a space after the version":    "GET /healthz HTTP/1.1 \r\nHost: a\r\n\r\n",
	"tabs in the request":          "GET\t/healthz\tHTTP/1.1\r\nHost: a\r\n\r\n",
	"no version":                   "GET /healthz\r\nHost: a\r\n\r\n",
	"another protocol":             "GET /healthz ICY/1.1\r\nHost: a\r\n\r\n",
	"version in small letters":     "GET /healthz http/1.1\r\nHost: a\r\n\r\n",
	"version without end":          "GET /healthz HTTP/1.10\r\nHost: a\r\n\r\n",
	"a fragment":                   "GET /healthz#x HTTP/1.1\r\nHost: a\r\n\r\n",
	"text in the target":           "GET /h\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
	"505 of the next version":      "GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n",
	"505 of the one after":         "GET /healthz HTTP/3.0\r\nHost: a\r\n\r\n",
	"505 of the first":             "GET /healthz HTTP/0.9\r\nHost: a\r\n\r\n",
	"505 of one that is not there": "GET /healthz HTTP/1.2\r\nHost: a\r\n\r\n",
	"505 of HTTP/2 at once":        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

func TestIllFramedRequestGetsOneRefusalAndTheConnectionEnds(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	for name, request := range misframed {
		status, code := 400, "malformed_request"
		if strings.HasPrefix(name, "505") {
			status, code = 505, "http_version_unsupported"
		}
		for _, how := range []string{"whole", "byte by byte", "after another", "behind another"} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				w := a.dial(t)
				switch how {
				case "after another":
					w.send(alive, false)
					w.answer(t).answered(t, 200, `{"status":"alive"}`)
					w.send(request+alive, false)
				case "behind another":
					w.send(alive+request+alive, false)
					w.answer(t).answered(t, 200, `{"status":"alive"}`)
				case "byte by byte":
					go w.send(request+alive, true) // the answer may come in the middle of the request
				default:
					w.send(request+alive, false)
				}
				w.answer(t).refused(t, status, code, "")
				w.ends(t)
			})
		}
	}
}

// What is well framed is answered in whatever pieces it arrives, and in its order.
func TestWellFramedRequestsAreAnsweredInTurn(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	sized := fmt.Sprintf("%scontent-length: %d\r\n\r\n%s", postLogin, len(credentials), credentials)
	for _, byByte := range []bool{false, true} {
		w := a.dial(t)
		w.send("\r\n"+alive+sized+alive+sized+"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"+alive, byByte)
		for _, is := range []string{"alive", "Login", "alive", "Login", "alive", "alive"} {
			if e := w.answer(t); e.Answer.Status != 200 || !strings.Contains(e.Answer.Body, is) {
				t.Errorf("%d %s, want %s", e.Answer.Status, e.Answer.Body, is)
			}
		}
	}
	// Chunks may come, and are the last of their connection.
	w := a.dial(t)
	w.send(fmt.Sprintf("%sTransfer-Encoding: Chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n%s", postLogin, len(credentials), credentials, alive), false)
	w.answer(t).member(t, "accessToken")
	w.ends(t)
}

// zip compresses n bytes as often as times says.
func zip(t *testing.T, n, times int) []byte {
	t.Helper()
	content := bytes.Repeat([]byte(" "), n)
	for range times {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write(content)
		check(t, errors.Join(err, z.Close()))
		content = b.Bytes()
	}
	return content
}

// No route expands what it was sent: a coded body is refused before it is read.
func TestCodedBodiesAreRefusedUnread(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	bomb := string(zip(t, 32<<20, 2))
	var described struct {
		Paths map[string]map[string]json.RawMessage
	}
	check(t, json.Unmarshal([]byte(document(t, "openapi.json", nil)), &described))
	for path, operations := range described.Paths {
		if strings.HasPrefix(path, "/docs") || strings.HasSuffix(path, "api.json") {
			continue // not on the edge
		}
		for method := range operations {
			line := strings.ToUpper(method) + " " + strings.ReplaceAll(path, "{id}", "x")
			for _, coding := range []string{"gzip, gzip", "identity", "br", ""} {
				head := line + " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Encoding: " + coding + "\r\n"
				for name, rest := range map[string]string{
					"length": fmt.Sprintf("Content-Length: %d\r\n\r\n", len(bomb)), // and never comes
					"chunks": "Transfer-Encoding: chunked\r\n\r\n",
				} {
					w := a.dial(t)
					w.send(head+rest, false)
					e := w.answer(t)
					e.Request.To = line + " by " + name
					e.refused(t, 415, "unsupported_media_type", "")
					w.ends(t)
				}
				if path != "/verify" { // its client's header, without the body
					w := a.dial(t)
					w.send(head+"\r\n", false)
					e := w.answer(t)
					e.Request.To = line
					e.refused(t, 415, "unsupported_media_type", "")
				}
			}
		}
	}
	header := map[string][]string{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip", "gzip"}}
	e, err := (&instance{http: a.http, foreign: true}).try("POST /login", header, bomb)
	check(t, err)
	e.refused(t, 415, "unsupported_media_type", "")
}

// A form is not parsed, and its files do not reach the disk.
func TestFormsAreNotParsed(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	form := "--x\r\nContent-Disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\n" + strings.Repeat("a", 1000) + "\r\n--x--\r\n"
	a.do(t, "POST /login", map[string][]string{"Content-Type": {"multipart/form-data; boundary=x"}}, form).refused(t, 415, "unsupported_media_type", "")
	a.do(t, "POST /login", map[string][]string{"Content-Type": {"multipart/form-data; boundary=x"}}, "no form").refused(t, 415, "unsupported_media_type", "")
}

// Fiber's Body expands what Content-Encoding says, and so do these. The raw body is Request().Body().
func TestNothingExpandsARequest(t *testing.T) {
	t.Parallel()
	expands := regexp.MustCompile(`\b(c|ctx)\.Body\(\)|BodyParser|BodyUncompressed|BodyGunzip|BodyInflate|BodyUnbrotli|BodyUnzstd|MultipartForm|FormValue|FormFile|SaveFile`)
	allowed := "DisablePreParseMultipartForm"
	for _, dir := range []string{"http", "bus/authfiber", "admin"} {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		check(t, err)
		if len(files) == 0 {
			t.Fatalf("%s has no files", dir)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			check(t, err)
			for line := range strings.Lines(string(content)) {
				if code, _, _ := strings.Cut(line, "//"); expands.MatchString(strings.ReplaceAll(code, allowed, "")) {
					t.Errorf("%s: %s", file, line)
				}
			}
		}
	}
}

func TestLargeHeadersAreRefusedInFull(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--cors-origins="+page)
	for name, request := range map[string]string{
		"before the origin":  "GET /me HTTP/1.1\r\nHost: a\r\nCookie: a=" + strings.Repeat("x", 40<<10) + "\r\nOrigin: " + page + "\r\n\r\n",
		"after the origin":   "GET /me HTTP/1.1\r\nHost: a\r\nOrigin: " + page + "\r\nCookie: a=" + strings.Repeat("x", 17<<10) + "\r\n\r\n",
		"in many fields":     "GET /me HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 2000) + "Origin: " + page + "\r\n\r\n",
		"in the target":      "GET /me?" + strings.Repeat("x", 17<<10) + " HTTP/1.1\r\nHost: a\r\nOrigin: " + page + "\r\n\r\n",
		"by a byte":          "GET /me HTTP/1.1\r\nHost: a\r\nOrigin: " + page + "\r\nX: " + strings.Repeat("x", 16<<10-len("GET /me HTTP/1.1\r\nHost: a\r\nOrigin: \r\nX: \r\n\r\n")-len(page)+1) + "\r\n\r\n",
		"with a body behind": postLogin + "Origin: " + page + "\r\nContent-Length: 100000\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n" + strings.Repeat(" ", 100_000),
	} {
		w := a.dial(t)
		w.send(request, false)
		e := w.answer(t)
		e.Request.To = name
		e.refused(t, 431, "headers_too_large", "")
		e.has(t, map[string]string{"Access-Control-Allow-Origin": page, "Access-Control-Allow-Credentials": "true", "Vary": "Origin"})
		w.ends(t)
	}
	a.line(t, "headers are too large")
	w := a.dial(t)
	w.send("GET /healthz HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 16<<10-len("GET /healthz HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"))+"\r\n\r\n", false)
	w.answer(t).answered(t, 200, `{"status":"alive"}`)
	// A gateway would answer 500 for 431.
	w = a.dial(t)
	w.send("GET /verify HTTP/1.1\r\nHost: a\r\nCookie: a="+strings.Repeat("x", 17<<10)+"\r\n\r\n", false)
	w.answer(t).refused(t, 403, "forbidden", "")
}

// What the server cannot read is not quoted in the log either.
func TestUnreadableRequestsAreNotLogged(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--log-level=debug")
	for _, head := range []string{"Authorization: Bearer hunter22\x01\r\n", "Cookie: __Host-access=hunter22\r\nContent-Length: x\r\n", "X hunter22: a\r\n"} {
		w := a.dial(t)
		w.send("GET /me HTTP/1.1\r\nHost: a\r\n"+head+"\r\n", false)
		w.answer(t).refused(t, 400, "malformed_request", "")
	}
	a.line(t, "request refused")
	a.quiet(t, "hunter22")
}

// limited runs authd with a limit of open files.
func limited(t *testing.T, files int) *instance {
	t.Helper()
	args := strings.Join(listenAnywhere, " ")
	return execute(t, t.TempDir(), exec.Command("sh", "-c", fmt.Sprintf("ulimit -n %d; exec owned-authd %s", files, args))).ready(t)
}

// More connections than the process may open files close the idle ones, and neither the process nor
// those that are in use.
func TestIdleConnectionsMakeRoomForOthers(t *testing.T) {
	t.Parallel()
	a := limited(t, 256)
	a.post(t, "/register", credentials)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	kept := a.dial(t) // receives while others come
	kept.send("GET /verify HTTP/1.1\r\nHost: a\r\n", false)
	var idle []*rawConn
	for i := range 600 {
		w := a.dial(t)
		idle = append(idle, w)
		if i%3 == 0 {
			w.send("GET /he", false)
		}
		if i%100 == 99 {
			a.get(t, "/verify", access).answered(t, 200, verified)
		}
	}
	a.line(t, "too many connections")
	a.get(t, "/verify", access).answered(t, 200, verified)
	closed := 0
	for _, w := range idle[:100] {
		check(t, w.SetReadDeadline(time.Now().Add(time.Millisecond)))
		if _, err := w.reader.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
	}
	if closed == 0 {
		t.Error("no connection was closed")
	}
	select {
	case <-a.exited:
		t.Fatalf("authd ended with %d", a.process.Code)
	default:
	}
	a.stop(t)
}

// The soft limit of open files is raised to the hard one.
func TestSoftLimitOfOpenFilesIsRaised(t *testing.T) {
	t.Parallel()
	args := strings.Join(listenAnywhere, " ")
	cmd := exec.Command("sh", "-c", "ulimit -Sn 128; ulimit -Hn 512; exec owned-authd "+args)
	execute(t, t.TempDir(), cmd).ready(t)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
	check(t, err)
	if !regexp.MustCompile(`Max open files +51[12] +512 `).Match(limits) {
		t.Errorf("%s", limits)
	}
}
