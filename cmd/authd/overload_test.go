package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
)

// shedding is what a login of a storm came to, on either door.
type shedding struct {
	door       string
	status     int
	code       string
	retryAfter int
}

// Ten times as many logins as can be hashed: those that would wait for too long are refused, on
// both doors, and whatever else is asked goes on.
func TestAStormOfLoginsIsShedAndNothingElse(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		const each = 40 // tries at either door
		in := h.instances[0].post(t, "/login", credentials)
		access := in.member(t, "accessToken")

		counted := map[shedding]int{}
		var mu sync.Mutex
		var storm sync.WaitGroup
		count := func(a shedding, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			counted[a]++
		}
		for i := range each {
			a, conn := h.instances[i%len(h.instances)], h.conns[i%len(h.conns)]
			storm.Go(func() { count(overHTTP(a, wrong)) })
			storm.Go(func() { count(overBus(conn, wrong)) })
		}
		for _, a := range h.instances { // while it storms
			a.get(t, "/verify", access).answered(t, 200, verified)
			if e := a.get(t, "/me", access); e.Answer.Status != 200 {
				t.Errorf("GET /me: %d %s", e.Answer.Status, e.Answer.Body)
			}
		}
		storm.Wait()

		tried, shed := map[string]int{}, 0
		for a, n := range counted {
			switch {
			case a.code == "invalid_credentials" && a.status == 401:
				tried[a.door] += n
			case a.code == "overloaded" && a.status == 503 && a.retryAfter >= 1:
				shed += n
			case a.code != "rate_limited": // those that came after the fifth try
				t.Errorf("%d times %+v", n, a)
			}
		}
		if len(tried) == 0 || shed == 0 {
			t.Errorf("%v", counted)
		}
		for door, n := range tried {
			if n > 5 { // the limit counts what was looked at
				t.Errorf("%d tries over %s", n, door)
			}
		}
	}, "--bcrypt-cost=12", "--hash-queue-wait=100ms", "--limit-login-source=1000/1s")
}

func overHTTP(a *instance, body string) (shedding, error) {
	e, err := a.try("POST /login", map[string][]string{"Content-Type": {"application/json"}}, body)
	if err != nil {
		return shedding{}, err
	}
	told, err := read([]byte(e.Answer.Body))
	told.door, told.status = "HTTP", e.Answer.Status
	if header := e.Answer.Header["Retry-After"]; told.retryAfter != 0 && (len(header) != 1 || header[0] != strconv.Itoa(told.retryAfter)) {
		err = fmt.Errorf("Retry-After is %q, retryAfter %d", header, told.retryAfter)
	}
	return told, err
}

func overBus(conn *nats.Conn, body string) (shedding, error) {
	reply, err := conn.Request("auth.login", []byte(body), patience)
	if err != nil {
		return shedding{}, err
	}
	told, err := read(reply.Data)
	var failed error
	told.door = "bus"
	told.status, failed = strconv.Atoi(reply.Header.Get("Nats-Service-Error-Code"))
	return told, errors.Join(err, failed)
}

func read(body []byte) (told shedding, err error) {
	var b struct {
		Code       string
		RetryAfter int
	}
	err = json.Unmarshal(body, &b)
	return shedding{code: b.Code, retryAfter: b.RetryAfter}, err
}
