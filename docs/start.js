// Shows openapi.json. The validator badge of Swagger UI would ask a stranger, so it is off.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
