package http

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/gofiber/fiber/v2"
	swaggerui "github.com/swaggest/swgui/v5/static"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/docs"
)

const docsMaxAge = "public, max-age=300"

// pagePolicy lets the page under /docs load what it is made of from here and send requests
// here, and nothing else. Swagger UI writes style attributes and has its icons in data URLs.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pageFile is a file of the page: one of ours, or one of Swagger UI by its name in the
// module, which keeps the large ones compressed.
type pageFile struct {
	kind   string
	ours   []byte
	source string
}

var pageFiles = map[string]pageFile{
	"start.js":             {kind: "text/javascript; charset=utf-8", ours: docs.Script},
	"swagger-ui-bundle.js": {kind: "text/javascript; charset=utf-8", source: "swagger-ui-bundle.js.gz"},
	"swagger-ui.css":       {kind: "text/css; charset=utf-8", source: "swagger-ui.css.gz"},
	"favicon-32x32.png":    {kind: "image/png", source: "favicon-32x32.png"},
}

// describe serves the documents and the page to read them.
func (e *Edge) describe() {
	e.app.Get("/openapi.json", document(fiber.MIMEApplicationJSON, docs.OpenAPI))
	e.app.Get("/asyncapi.json", document(fiber.MIMEApplicationJSON, docs.AsyncAPI))
	page := document(fiber.MIMETextHTMLCharsetUTF8, docs.Page)
	e.app.Get("/docs", func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentSecurityPolicy, pagePolicy)
		return page(c)
	})
	e.app.Get("/docs/:file", sendPageFile)
}

func document(kind string, content []byte) fiber.Handler {
	return func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderCacheControl, docsMaxAge)
		c.Set(fiber.HeaderContentType, kind)
		return c.Send(content)
	}
}

func sendPageFile(c *fiber.Ctx) error {
	file, known := pageFiles[c.Params("file")]
	if !known {
		return auth.ErrNotFound
	}
	if file.ours != nil {
		return document(file.kind, file.ours)(c)
	}
	content, err := swaggerui.FS.ReadFile(file.source)
	if err != nil {
		return fmt.Errorf("page file: %w", err)
	}
	if file.source != c.Params("file") { // compressed
		c.Vary(fiber.HeaderAcceptEncoding)
		if c.AcceptsEncodings("gzip") == "gzip" {
			c.Set(fiber.HeaderContentEncoding, "gzip")
		} else if content, err = unzip(content); err != nil {
			return fmt.Errorf("page file: %w", err)
		}
	}
	return document(file.kind, content)(c)
}

func unzip(content []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
