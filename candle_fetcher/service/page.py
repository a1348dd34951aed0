"""The page `/docs`: the OpenAPI document as HTML, without a script or another file."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; overflow-wrap: anywhere; }
code { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; }
nav a { margin-right: 1rem; }
"""


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    info = document["info"]
    operations = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]
    links = "".join(f'<a href="#{_text(one["operationId"])}">{_text(path)}</a> ' for path, one in operations)
    parts = "".join(part for path, one in operations for part in _operation(path, one))
    parts += _statuses(one for _, one in operations)
    description = "".join(f"<p>{_text(line)}</p>" for line in info.get("description", "").split("\n\n"))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>{description}"
        f'<p><a href="/openapi.json">openapi.json</a> for client generators</p><nav>{links}</nav>'
        f"<main>{parts}</main></html>"
    )


def _operation(path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<section><h2 id="{_text(operation["operationId"])}"><code>GET {_text(path)}</code></h2>'
    yield f"<p><b>{_text(operation.get('summary', ''))}.</b> {_text(operation.get('description', ''))}</p>"
    parameters = operation.get("parameters", [])
    if parameters:
        yield "<table><tr><th>parameter</th><th>type</th><th>default</th><th></th></tr>"
        for one in parameters:
            schema = one["schema"]
            default = "required" if one.get("required") else json.dumps(schema.get("default"))
            cells = [_type_of(schema), "" if default == "null" else default, one.get("description", "")]
            yield f"<tr><td><code>{_text(one['name'])}</code></td>"
            yield "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>"
        yield "</table>"
    good = [f"{status}: {one['description']}" for status, one in operation["responses"].items() if int(status) < 400]
    bad = [status for status in operation["responses"] if int(status) >= 400]
    yield f"<p>{_text('; '.join(good))}{'. Errors: ' + ', '.join(bad) if bad else ''}</p></section>"


def _type_of(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kinds = [_type_of(one) for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return " or ".join(kinds) or str(schema.get("type", ""))


def _statuses(operations: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of what the errors of all routes mean."""
    said: dict[str, str] = {}
    for one in operations:
        said |= {status: reply["description"] for status, reply in one["responses"].items() if int(status) >= 400}
    rows = "".join(f"<tr><td>{status}</td><td>{_text(text)}</td></tr>" for status, text in sorted(said.items()))
    return f"<h2>Errors</h2><table>{rows}</table>"


def _text(value: object) -> str:
    """Return the text as HTML; what stands between backticks is code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(str(value)))
