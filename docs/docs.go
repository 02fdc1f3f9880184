// Package docs holds the API descriptions of the service: OpenAPI for HTTP, AsyncAPI for the bus,
// and a page that shows the OpenAPI document. They are written by hand, for people, and are
// served from the binary. Tests compare them with the answers of the service, so that
// they cannot drift. The package does nothing else.
package docs

import _ "embed"

var (
	//go:embed openapi.json
	OpenAPI []byte // OpenAPI 3.1 of the HTTP edge

	//go:embed asyncapi.json
	AsyncAPI []byte // AsyncAPI 3.0 of the bus

	//go:embed index.html
	Page []byte // shows the OpenAPI document with Swagger UI, whose files it loads from docs/

	//go:embed start.js
	Script []byte // starts Swagger UI; a separate file, since the page's policy allows no inline script
)
