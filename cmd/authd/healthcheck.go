package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"
)

// healthcheckCommand is "authd healthcheck", for containers, which contain no other program that
// could request /readyz.
type healthcheckCommand struct {
	URL         string `arg:"" optional:"" help:"What to ask. Without it: /readyz of the edge on HOST and PORT, or on METRICS_ADDR if there is no edge."`
	Host        string `env:"HOST" default:"127.0.0.1" placeholder:"ADDRESS" help:"Address of the edge."`
	Port        string `env:"PORT" default:"3000" placeholder:"PORT" help:"Port of the edge."`
	MetricsAddr string `name:"metrics-addr" env:"METRICS_ADDR" default:"127.0.0.1:9464" placeholder:"HOST:PORT" help:"Where pages for operators listen."`
}

func (h healthcheckCommand) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if h.URL != "" {
		return askReady(ctx, h.URL)
	}
	err := askReady(ctx, "http://"+net.JoinHostPort(reachable(h.Host), h.Port)+"/readyz")
	if host, port, bad := net.SplitHostPort(h.MetricsAddr); bad == nil && errors.Is(err, syscall.ECONNREFUSED) {
		return askReady(ctx, "http://"+net.JoinHostPort(reachable(host), port)+"/readyz")
	}
	return err
}

// askReady requests url and returns nil if the status is 200.
func askReady(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// reachable returns the address at which a client on this machine reaches a listener on host: a listener
// on all addresses includes loopback.
func reachable(host string) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
}
