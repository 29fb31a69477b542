"""OpenAPI 3.1 from the routes that are served. Knows nothing that a Route does not say."""
