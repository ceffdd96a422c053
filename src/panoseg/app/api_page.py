"""The description of the API as one page that asks nobody else for anything."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment

_METHODS = ("get", "post", "put", "delete")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2420 }
code, pre { font: 14px/1.45 ui-monospace, monospace } pre { background: #f2f5f3; padding: .8rem; overflow-x: auto }
h2 { margin: 2rem 0 .2rem; font-size: 1.05rem } b { display: inline-block; min-width: 4rem; color: #0b5d3b }
summary { cursor: pointer } td { padding: .1rem 1rem .1rem 0; vertical-align: top }
</style></head><body>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} Bodies and answers are JSON; where people sign in, send <code>Authorization: Bearer TOKEN</code>.
A refusal is <code>{"error": "what was found; what was expected; what to do"}</code>.
The description for programs: <a href="/openapi.json">openapi.json</a>.</p>
{% for route in routes %}
<h2><b>{{ route.method }}</b> <code>{{ route.path }}</code></h2>
<p>{{ route.text }}</p>
{% if route.parameters %}<table>{% for one in route.parameters %}
<tr><td><code>{{ one.name }}</code></td><td>in the {{ one["in"] }}</td><td><code>{{ one.schema | brief }}</code></td></tr>
{% endfor %}</table>{% endif %}
{% if route.body %}<details><summary>body</summary><pre>{{ route.body | brief }}</pre></details>{% endif %}
{% endfor %}
<h1>Forms</h1>
{% for name, schema in schemas.items() %}
<details id="{{ name }}"><summary><code>{{ name }}</code> {{ schema.description or "" }}</summary>
<pre>{{ schema | brief }}</pre></details>
{% endfor %}
</body></html>"""


def api_page(description: dict[str, Any]) -> str:
    """An OpenAPI description as HTML."""
    environment = Environment(autoescape=True)
    environment.filters["brief"] = lambda value: json.dumps(value, indent=1).replace("#/components/schemas/", "")
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "text": (operation.get("description") or "").strip(),
            "parameters": operation.get("parameters", []),
            "body": operation.get("requestBody"),
        }
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]
    page = environment.from_string(_PAGE)
    return page.render(info=description["info"], routes=routes, schemas=description["components"]["schemas"])
