"""A page of its own: one HTML file with the panels and their data, which asks nobody for anything.

::

    static/*.js ──▶ one script ──┐
    static/*.css ─▶ one style ───┼──▶ a file; its policy allows these very texts, and no connection
    documents ────▶ JSON, inert ─┘
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_STATIC = files("queue_eval.web") / "static"
_STYLES = ("uplot/uPlot.min.css", "app.css")
_CHARTS = "uplot/uPlot.iife.min.js"
_MAIN = "page_main.js"

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title} &ndash; queue-eval</title>
<style>{style}</style>
</head>
<body>
<header class="top"><span class="brand">queue-eval</span><nav aria-label="Page"><span id="made"></span></nav>
<button id="theme" type="button">Colours</button></header>
<main id="main"><h1>{title}</h1><noscript>This page needs JavaScript to draw its charts.</noscript></main>
<script id="documents" type="application/json">{documents}</script>
<script>{charts}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def page_html(title: str, documents: Mapping[str, Any]) -> str:
    """The file. `documents`: of `queue_eval.views.panels`, by their kind; floats in them are finite."""
    style = "\n".join(map(_static, _STYLES))
    charts, script = _static(_CHARTS), one_script(_MAIN)
    policy = (
        f"default-src 'none'; script-src {_hash(charts)} {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return _PAGE.format(
        policy=policy, title=html.escape(title), style=style, charts=charts, script=script,
        documents=inert_json(documents),
    )  # fmt: skip


def inert_json(document: Any) -> str:
    """JSON that no HTML parser takes for markup, wherever it stands. Raises ValueError for NaN."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def one_script(main: str) -> str:
    """A module with all that it imports. Each one keeps its own names, within a function."""
    known: dict[str, str] = {}
    _gather(main, known)
    return "const modules = {};\n" + "".join(known.values())


def _gather(name: str, known: dict[str, str]) -> None:
    source = _static(name)
    for _, wanted in _IMPORT.findall(source):
        if wanted not in known:
            _gather(wanted, known)
    exported = ", ".join(_EXPORT.findall(source))
    body = _EXPORT.sub("", _IMPORT.sub(_taken, source))
    known[name] = f'modules["{name}"] = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();\n'


def _taken(found: re.Match[str]) -> str:
    return f'const {{{found[1].replace(" as ", ": ")}}} = modules["{found[2]}"];\n'


def _static(name: str) -> str:
    return _STATIC.joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a policy names a text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
