"""The page /api/docs: every address of the API, made from its OpenAPI schema and in the site's own dress.

Swagger's page, which ninja would show, can't be used with a screen reader: it nests buttons, and its text is too faint.
"""

from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from ninja import NinjaAPI
from ninja.openapi.docs import DocsBase

from robots import strict_json

WHO = {"lab": "People: an access token, or session and CSRF token", "station": "Stations: their token"}


Part = dict[str, Any]  # a part of an OpenAPI schema
Groups = list[tuple[str, list[dict[str, Any]]]]  # whose calls, and these


class Reference(DocsBase):
    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        schema = api.get_openapi_schema(path_params=kwargs)
        groups: dict[str, list[dict[str, Any]]] = {tag: [] for tag in WHO}
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                groups[operation["tags"][0]].append(
                    {
                        "method": method.upper(),
                        "path": path,
                        "text": operation.get("description", "") or operation["summary"],
                        "fields": [*parameters_of(operation), *body_of(operation, schema)],
                        "answer": answer_of(operation, schema),
                        "token": said_of_tokens(operation),
                    }
                )
        named = [(WHO[tag], found) for tag, found in groups.items()]
        context = {
            "api": api,
            "groups": named,
            "shapes": list(shapes_of(schema, named)),
            "schema_url": self.get_openapi_url(api, kwargs),
        }
        return render(request, "api/reference.html", context)


def said_of_tokens(operation: Part) -> str:
    """What an access token must have been made for."""
    if "x-scope" not in operation:
        return ""
    scope = operation["x-scope"]
    return "none: only a person does it" if scope is None else scope or "any"


def parameters_of(operation: Part) -> Iterator[dict[str, Any]]:
    for row in operation.get("parameters", ()):
        yield describe(row["name"], f"in the {row['in']}", row["schema"], row["required"])


def body_of(operation: Part, schema: Part) -> Iterator[dict[str, Any]]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        body = content["schema"]
        if "$ref" in body:
            body = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        for field, part in body.get("properties", {}).items():  # a file has none
            yield describe(field, "in the body", part, field in body.get("required", ()))


def answer_of(operation: Part, schema: Part) -> str:
    """What comes back where all is well, by name; the names are explained at the page's end. Empty: a file."""
    for status, answer in operation["responses"].items():
        if int(status) < 300 and "application/json" in answer.get("content", {}):
            return type_of(answer["content"]["application/json"]["schema"])
    return ""


def shapes_of(schema: Part, groups: Groups) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(name, what it is, its fields) of each answer that the calls name, and of what stands in these."""
    known, wanted = schema["components"]["schemas"], list[str]()
    asked = [name for _, calls in groups for call in calls for name in known if name in call["answer"].split()]
    for name in [*asked, "Problem"]:
        for each in (name, *names_in(known[name])):
            if each not in wanted:
                wanted.append(each)
    for name in wanted:
        shape = known[name]
        fields = [
            {"name": field, "type": type_of(part), "text": part.get("description", "")}
            for field, part in shape["properties"].items()
        ]
        yield name, shape.get("description", ""), fields


def names_in(schema: Any) -> list[str]:
    """Of the shapes that a schema refers to."""
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if "$ref" in schema else []
        return own + [name for each in schema.values() for name in names_in(each)]
    return [name for each in schema for name in names_in(each)] if isinstance(schema, list) else []


def type_of(schema: Part) -> str:
    kinds: list[str] = []
    for each in schema.get("anyOf", [schema]):
        kind = each.get("format") or each.get("type") or "anything"
        if "$ref" in each:
            kind = each["$ref"].rpartition("/")[2]
        elif kind == "array":
            kind = f"list of {type_of(each['items'])}"
        kinds += kind if isinstance(kind, list) else [kind]  # a rule that may be left empty: ["number", "null"]
    return " or ".join(kinds)


def describe(name: str, where: str, schema: Part, required: bool) -> dict[str, Any]:
    return {
        "name": name,
        "where": where,
        "type": type_of(schema),
        "default": "" if required else strict_json.dumps(schema.get("default")),
    }
