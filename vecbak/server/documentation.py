"""The API's description as one page for people: no script, no style, and nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Schema = Mapping[str, Any]


def page(document: Schema) -> str:
    """The page.

    Args:
        document: the API's OpenAPI document.
    """
    info = document["info"]
    body = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])}</p>",
        "<p>Every request but those without a lock needs <code>Authorization: Bearer TOKEN</code>. For programs:"
        ' <a href="/openapi.json">/openapi.json</a>.</p>',
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body += _operation(document, f"{method.upper()} {path}", operation)
    title = escape(info["title"])
    head = f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>'
    return "\n".join([head, "<body>", *body, "</body>\n</html>\n"])


def _operation(document: Schema, name: str, operation: Schema) -> Iterator[str]:
    yield f"<h2><code>{escape(name)}</code>{' 🔒' if operation['security'] else ''}</h2>"
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    for parameter in operation.get("parameters", []):
        yield _described(
            f"{parameter['name']} ({parameter['in']})", parameter.get("description", ""), parameter["schema"]
        )
    content = operation.get("requestBody", {}).get("content", {})
    for media_type, entry in content.items():
        schema = _resolved(document, entry["schema"])
        yield f"<p>Body, <code>{escape(media_type)}</code>:</p>"
        for field, value in schema["properties"].items():
            mark = ", required" if field in schema.get("required", []) else ""
            yield _described(f"{field}{mark}", value.get("description", ""), value)
    yield f"<p>Answers: {escape(', '.join(operation['responses']))}</p>"


def _described(name: str, text: str, schema: Schema) -> str:
    return f"<p>– <code>{escape(name)}</code>: {escape(_type(schema))}. {escape(text)}</p>"


def _type(schema: Schema) -> str:
    """A field's type in words."""
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    kind = str(schema.get("type", "any"))
    default = f", by default {schema['default']!r}" if schema.get("default") not in (None, []) else ""
    return f"array of {_type(schema['items'])}" if kind == "array" else f"{kind}{default}"


def _resolved(document: Schema, schema: Schema) -> Schema:
    name = schema["$ref"].rpartition("/")[2]
    found: Schema = document["components"]["schemas"][name]
    return found
