package http

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	nethttp "net/http"
	"strings"

	"github.com/gofiber/fiber/v2"
	swaggerui "github.com/swaggest/swgui/v5/static"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/docs"
)

const docsMaxAge = "public, max-age=300"

// pagePolicy lets the page under /docs load what it is made of from here and send requests to here and
// to the origin in place of %s, and nothing else. Swagger UI writes style attributes and has its icons
// in data URLs.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; connect-src 'self'%s; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// documentFile is a document, or a file of the page to read it.
type documentFile struct {
	kind    string
	policy  string // Content-Security-Policy, "" for that of every answer
	content []byte
	source  string // name in Swagger UI's module, instead of content; it keeps large files compressed
}

// documentFiles returns what is served, by path. Service is the origin that answers the requests which
// openapi.json describes; "" is the one that serves it.
func documentFiles(service string) map[string]documentFile {
	openAPI, more := docs.OpenAPI, ""
	if service != "" {
		openAPI, more = bytes.Replace(openAPI, []byte(`"url": "/"`), []byte(`"url": "`+service+`"`), 1), " "+service
	}
	return map[string]documentFile{
		"/openapi.json":              {kind: fiber.MIMEApplicationJSON, content: openAPI},
		"/asyncapi.json":             {kind: fiber.MIMEApplicationJSON, content: docs.AsyncAPI},
		"/docs":                      {kind: fiber.MIMETextHTMLCharsetUTF8, policy: fmt.Sprintf(pagePolicy, more), content: docs.Page},
		"/docs/start.js":             {kind: "text/javascript; charset=utf-8", content: docs.Script},
		"/docs/swagger-ui-bundle.js": {kind: "text/javascript; charset=utf-8", source: "swagger-ui-bundle.js.gz"},
		"/docs/swagger-ui.css":       {kind: "text/css; charset=utf-8", source: "swagger-ui.css.gz"},
		"/docs/favicon-32x32.png":    {kind: "image/png", source: "favicon-32x32.png"},
	}
}

// read returns the file and the headers of the answer. A compressed file is expanded for clients that
// do not take gzip.
func (f documentFile) read(gzipped bool) (content []byte, header map[string]string, err error) {
	header = map[string]string{fiber.HeaderCacheControl: docsMaxAge, fiber.HeaderContentType: f.kind}
	if f.policy != "" {
		header[fiber.HeaderContentSecurityPolicy] = f.policy
	}
	if f.source == "" {
		return f.content, header, nil
	}
	if content, err = swaggerui.FS.ReadFile(f.source); err != nil {
		return nil, nil, fmt.Errorf("page file: %w", err)
	}
	if !strings.HasSuffix(f.source, ".gz") {
		return content, header, nil
	}
	header[fiber.HeaderVary] = fiber.HeaderAcceptEncoding
	if gzipped {
		header[fiber.HeaderContentEncoding] = "gzip"
		return content, header, nil
	}
	if content, err = unzip(content); err != nil {
		return nil, nil, fmt.Errorf("page file: %w", err)
	}
	return content, header, nil
}

// describe serves the documents and the page to read them.
func (e *Edge) describe() {
	files := documentFiles("")
	serve := func(c *fiber.Ctx) error {
		file, known := files[c.Path()]
		if !known {
			return auth.ErrNotFound
		}
		content, header, err := file.read(c.AcceptsEncodings("gzip") == "gzip")
		if err != nil {
			return err
		}
		for name, value := range header {
			if name == fiber.HeaderVary {
				c.Vary(value)
				continue
			}
			c.Set(name, value)
		}
		return c.Send(content)
	}
	for _, path := range []string{"/openapi.json", "/asyncapi.json", "/docs", "/docs/:file"} {
		e.get(path, serve)
	}
}

// Documents returns handlers by path that serve the documents and the page to read them elsewhere than
// on the edge. The page sends its requests to service, the edge's origin; the edge has to share its
// answers with the page's origin (Config.Origins).
func Documents(service string) map[string]nethttp.Handler {
	handlers := map[string]nethttp.Handler{}
	for path, file := range documentFiles(service) {
		handlers[path] = nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
			content, header, err := file.read(strings.Contains(r.Header.Get(fiber.HeaderAcceptEncoding), "gzip"))
			if err != nil {
				nethttp.Error(w, "The file cannot be read.", nethttp.StatusInternalServerError)
				return
			}
			w.Header().Set(fiber.HeaderReferrerPolicy, "no-referrer")
			w.Header().Set(fiber.HeaderXContentTypeOptions, "nosniff")
			for name, value := range header {
				w.Header().Set(name, value)
			}
			_, _ = w.Write(content) // the client has gone
		})
	}
	return handlers
}

// document serves content of a kind.
func document(kind string, content []byte) fiber.Handler {
	return func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderCacheControl, docsMaxAge)
		c.Set(fiber.HeaderContentType, kind)
		return c.Send(content)
	}
}

func unzip(content []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
