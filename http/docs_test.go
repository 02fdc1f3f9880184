package http

import (
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth/docs"
)

// The document lists the routes of the edge, all of them and no other.
func TestOpenAPIListsTheRoutes(t *testing.T) {
	var routes []string
	for _, r := range New(nil, Config{Documents: true, Log: slog.New(slog.DiscardHandler)}).app.GetRoutes(true) {
		if r.Method == fiber.MethodHead { // comes with GET
			continue
		}
		segments := strings.Split(r.Path, "/")
		for i, s := range segments {
			if name, ok := strings.CutPrefix(s, ":"); ok {
				segments[i] = "{" + name + "}"
			}
		}
		routes = append(routes, r.Method+" "+strings.Join(segments, "/"))
	}
	var d struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(docs.OpenAPI, &d); err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, item := range d.Paths {
		for method := range item {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(documented)
	if !slices.Equal(routes, documented) {
		t.Errorf("routes\n%s\ndocumented\n%s", strings.Join(routes, "\n"), strings.Join(documented, "\n"))
	}
}
