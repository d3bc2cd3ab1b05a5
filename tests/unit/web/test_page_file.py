"""A page of its own: its policy names its very scripts, and no data gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from queue_eval.web.page import inert_json, one_script, page_html

HOSTILE = '</script><script>alert(1)</script><!-- \u2028\u2029 & \ud800 "'


class Parts(HTMLParser):
    """The texts of scripts and styles, with their attributes, as a browser parses them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.policy = ""
        self._tag = ""
        self._attributes: dict[str, str | None] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tag, self._attributes = tag, dict(attrs)
        if self._attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = self._attributes["content"] or ""

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag == "script":
            self.scripts.append((self._attributes, data))
        elif self._tag == "style":
            self.styles.append(data)


def test_the_policy_allows_these_texts_and_no_connection():
    parts = Parts(page_html("demo", {"overview": {}}))
    data, charts, script = parts.scripts
    directives = dict(part.strip().split(" ", 1) for part in parts.policy.split(";"))

    def hashed(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert data[0] == {"id": "documents", "type": "application/json"}
    assert directives == {
        "default-src": "'none'", "script-src": f"{hashed(charts[1])} {hashed(script[1])}",
        "style-src": hashed("".join(parts.styles)), "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip


def test_data_and_title_stay_data():
    text = page_html(HOSTILE.replace("\ud800", ""), {"overview": {"line": HOSTILE}})
    parts = Parts(text)
    assert len(parts.scripts) == 3
    assert json.loads(parts.scripts[0][1]) == {"overview": {"line": HOSTILE}}
    assert "alert(1)</script>" not in text
    text.encode()  # a lone surrogate would fail here


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_browsers_cannot_read_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        inert_json({"a": value})


def test_a_script_has_each_module_once_behind_those_that_it_needs():
    script = one_script("page_main.js")
    defined = re.findall(r'^modules\["([\w.]+)"\] = ', script, re.MULTILINE)
    assert len(defined) == len(set(defined)) > 5
    assert defined[-1] == "page_main.js"
    for taken in re.finditer(r'= modules\["([\w.]+)"\];', script):
        assert script.index(f'modules["{taken[1]}"] = ') < taken.start()
    assert re.findall(r"^(?:import|export)\b", script, re.MULTILINE) == []
    assert "</script" not in script
    assert "<!--" not in script
