"""HTTP for stations and for scripts, with an OpenAPI schema at /api/openapi.json."""
