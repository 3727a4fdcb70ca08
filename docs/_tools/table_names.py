"""Tables are named by what stands above them, for those who move from table to table by ear."""

from __future__ import annotations

import re
from html import escape, unescape

from sphinx.application import Sphinx

_TAG = re.compile(
    r"<(h[1-6]|summary|caption)\b[^>]*>(.*?)</\1>|<table\b(?P<table>[^>]*)>", re.DOTALL
)


def named(body: str) -> str:
    """The page with a name for each table: that of the last heading or summary above it.

    A table with a caption, or with a name, is left as it is.

    Args:
        body: HTML.
    """
    above = ""

    def name(found: re.Match[str]) -> str:
        nonlocal above
        attributes = found["table"]
        if attributes is None:
            text = re.sub(r'<a class="headerlink".*?</a>|<[^>]+>', "", found[2], flags=re.DOTALL)
            above = " ".join(unescape(text).split())
            return found[0]
        own = re.match(r"\s*<caption\b", body[found.end() :])
        if own or "aria-label" in attributes or not above:
            return found[0]
        return f'<table{attributes} aria-label="{escape(above, quote=True)}">'

    return _TAG.sub(name, body)


def _name_tables(
    app: Sphinx, page: str, template: str, context: dict[str, str], doctree: object
) -> None:
    if "body" in context:
        context["body"] = named(context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Name them where pages are written."""
    app.connect("html-page-context", _name_tables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
