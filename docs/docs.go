// Package docs holds the service described by itself: the HTTP side as OpenAPI, the bus as
// AsyncAPI, and the page to read the former. They are written by hand, for people, and are
// served from the binary; tests hold them against what the service really answers, so that
// they cannot drift. The package does nothing else.
package docs

import _ "embed"

var (
	//go:embed openapi.json
	OpenAPI []byte // OpenAPI 3.1 of the HTTP edge

	//go:embed asyncapi.json
	AsyncAPI []byte // AsyncAPI 3.0 of the bus

	//go:embed index.html
	Page []byte // shows the OpenAPI document with Swagger UI, whose files it wants in docs/

	//go:embed start.js
	Script []byte // starts Swagger UI; a file of its own, since the page's policy allows no inline script
)
