"""Makes a site of these pages: `make docs`. Why with Sphinx: adr/0023-the-site-is-made-by-sphinx.md.

The pages are plain Markdown, and are read in the repository, too. What only the site needs is added here: the
tables of contents, and targets for links that lead out of this folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import queue_eval

project = "queue_eval"
version = release = queue_eval.__version__
html_title = f"queue_eval {release}"
html_theme = "furo"
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# The anchors of headings are those that GitHub gives them.
myst_heading_anchors = 4

# Docstrings are plain text in which `backticks` stand around code.
default_role = "code"
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"

# Page -> (caption, pages) of each table of contents at its end; `[0-9]*` stands for all decisions.
CONTENTS = {
    "index": (
        ("Begin", ["tutorial"]),
        (
            "How to",
            [
                "howto/minimise", "howto/prints", "howto/stop", "howto/after-a-fix", "howto/yesterday",
                "howto/checkpoints", "howto/slurm",
            ],
        ),
        ("Run it", ["deploy", "resources", "ray", "rq", "security"]),
        ("Reference", ["reference/python", "reference/errors", "evaluator", "inside", "cli", "glossary"]),
        ("Explanation", ["guarantees", "architecture", "protocol", "faults", "review", "adr/README"]),
    ),
    "adr/README": (("Decisions", ["[0-9]*"]),),
}  # fmt: skip


def add_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Appends the tables of contents, which say nothing to a reader of the repository."""
    for caption, pages in CONTENTS.get(page, ()):
        options = [":glob:", f":caption: {caption}", *([":hidden:"] if page == "index" else [])]
        source[0] += "\n".join(["\n", "```{toctree}", *options, *pages, "```"])


def lead_out(app: Sphinx, page: nodes.document) -> None:
    """Turns links to other files of the repository into downloads; a folder keeps only its name.

    A link to what is not there is left alone, and so ends the build.
    """
    docs = Path(app.srcdir)
    folder = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(page.findall(addnodes.pending_xref)):
        if link["refdomain"] == "doc":  # a Markdown file, without .md: below this folder, or an absolute path
            found = (docs / f"{link['reftarget']}.md").resolve()
        else:
            found = (folder / link["reftarget"]).resolve()
        if found == docs / "adr":
            link["refdomain"], link["reftarget"], link["reftargetid"] = "doc", "adr/README", None
        elif found.is_dir():
            link.replace_self(link.children)
        elif found.is_file() and not found.is_relative_to(docs):
            target = os.path.relpath(found, folder)
            link.replace_self(addnodes.download_reference("", "", *link.children, reftarget=target))


def drop_made_up(
    _app: Sphinx, _kind: str, _name: str, _thing: object, _options: object, lines: list[str]
) -> None:
    """Drops the docstring that Python gives to each field of a named tuple."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", add_contents)
    app.connect("doctree-read", lead_out, priority=100)  # before Sphinx collects what is to be downloaded
    app.connect("autodoc-process-docstring", drop_made_up)
    return {"parallel_read_safe": True}
