"""The page /api/docs: every address of the API, made from its OpenAPI schema and in the site's own dress.

Swagger's page, which ninja would show, can't be used with a screen reader: it nests buttons, and its text is too faint.
"""

from django.shortcuts import render
from ninja.openapi.docs import DocsBase

from robots import strict_json

WHO = {"lab": "People: session and CSRF token", "station": "Stations: their token"}


class Reference(DocsBase):
    def render_page(self, request, api, **kwargs):
        schema = api.get_openapi_schema(path_params=kwargs)
        groups = {tag: [] for tag in WHO}
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                groups[operation["tags"][0]].append(
                    {
                        "method": method.upper(),
                        "path": path,
                        "text": operation.get("description", "") or operation["summary"],
                        "fields": [*parameters_of(operation), *body_of(operation, schema)],
                    }
                )
        context = {
            "api": api,
            "groups": [(WHO[tag], found) for tag, found in groups.items()],
            "schema_url": self.get_openapi_url(api, kwargs),
        }
        return render(request, "api/reference.html", context)


def parameters_of(operation):
    for row in operation.get("parameters", ()):
        yield describe(row["name"], f"in the {row['in']}", row["schema"], row["required"])


def body_of(operation, schema):
    for content in operation.get("requestBody", {}).get("content", {}).values():
        body = content["schema"]
        if "$ref" in body:
            body = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        for field, said in body["properties"].items():
            yield describe(field, "in the body", said, field in body.get("required", ()))


def describe(name, where, said, required) -> dict:
    kinds = []
    for each in said.get("anyOf", [said]):
        kind = each.get("format") or each.get("type") or "anything"
        kinds += kind if isinstance(kind, list) else [kind]  # a rule that may be left empty: ["number", "null"]
    return {
        "name": name,
        "where": where,
        "type": " or ".join(kinds),
        "default": "" if required else strict_json.dumps(said.get("default")),
    }
