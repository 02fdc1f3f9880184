package testnats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/testport"
)

// size is the number of servers of a cluster: the least that outlives the loss of one.
const size = 3

// Cluster is three servers that know each other.
type Cluster struct {
	Servers []*Server // n1, n2 and n3
}

// StartCluster runs three servers and returns when JetStream has its leader and can be used
// on each of them.
func StartCluster(t testing.TB, c Config) *Cluster {
	t.Helper()
	var routes []string
	for _, port := range testport.Ports(t, size) {
		routes = append(routes, onLoopback(port))
	}
	cluster := &Cluster{}
	for i, listen := range routes {
		place := Place{Name: fmt.Sprint("n", i+1), Cluster: listen, Routes: routes}
		cluster.Servers = append(cluster.Servers, c.place(t, place))
	}
	for _, s := range cluster.Servers {
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	return cluster
}

// URLs are where clients connect, comma-separated.
func (c *Cluster) URLs() string {
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.URL())
	}
	return strings.Join(urls, ",")
}

// Await waits until the servers that run agree on a leader of JetStream, and each has caught
// up with all streams and consumers that are kept on it. It gives up after a minute, or if one
// of them ends.
func (c *Cluster) Await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, s := range c.Servers {
		if !s.running() {
			continue
		}
		if err := s.await(ctx, "is in step with the cluster", func() bool { return s.inStep(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// jetStream is what a server tells of it (/jsz).
type jetStream struct {
	Meta struct {
		Leader string `json:"leader"`
		Size   int    `json:"cluster_size"`
	} `json:"meta_cluster"`
	Accounts []struct {
		Streams []struct {
			Name    string `json:"name"`
			Cluster struct {
				Leader string `json:"leader"`
			} `json:"cluster"`
		} `json:"stream_detail"`
	} `json:"account_details"`
}

func (s *Server) inStep(ctx context.Context) bool {
	var js jetStream
	err := s.tell(ctx, "/jsz", &js)
	return err == nil && js.Meta.Leader != "" && js.Meta.Size == size && s.healthy(ctx, "")
}

// MetaLeader is the server that decides for the cluster where streams are kept. It waits for
// one that runs, for up to a minute.
func (c *Cluster) MetaLeader(ctx context.Context) (*Server, error) {
	return c.leader(ctx, "JetStream", "/jsz", func(js jetStream) string { return js.Meta.Leader })
}

// StreamLeader is the server that leads a stream, in whichever account. It waits for one that
// runs, for up to a minute.
func (c *Cluster) StreamLeader(ctx context.Context, stream string) (*Server, error) {
	return c.leader(ctx, stream, "/jsz?accounts=true&streams=true&limit=1024", func(js jetStream) string {
		for _, account := range js.Accounts {
			for _, s := range account.Streams {
				if s.Name == stream {
					return s.Cluster.Leader
				}
			}
		}
		return ""
	})
}

// leader asks the servers until one that runs is said to lead by itself: the others may not
// have noticed a change.
func (c *Cluster) leader(ctx context.Context, what, page string, of func(jetStream) string) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		for _, s := range c.Servers {
			var js jetStream
			if s.running() && s.tell(ctx, page, &js) == nil && of(js) == s.Name {
				return s, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("nobody leads " + what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
