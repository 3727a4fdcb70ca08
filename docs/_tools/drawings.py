"""Drawings of docs/figures become part of their page, so that they follow its light or dark mode.

``theme.css``, which ``conf.py`` writes, has the dark partner of each colour.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


def inline(svg: str, name: str, alt_text: str) -> str:
    """A drawing as HTML that is no wider than the page.

    Args:
        svg: the file.
        name: of the drawing, to keep its identifiers apart from those of others.
        alt_text: what one sees, for readers who do not.
    """
    found = re.search(r'<svg\b[^>]*\bviewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>', svg)
    if found is None:
        raise ValueError(f"{name}: an SVG with a viewBox that begins at 0 0 is needed.")
    width, height = found[1], found[2]
    # Names at the ends of lines: what a narrow page should show first.
    kind = "drawn stored named" if 'mark" text-anchor="start"' in svg else "drawn stored"
    head = f'<svg viewBox="0 0 {width} {height}" aria-hidden="true" style="max-width: {width}px">'
    body = svg[found.end() :]
    body = re.sub(r'(\bid=")([^"]+")', rf"\1{name}-\2", body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\1{name}-", body)
    # Names of marks are of no use in a hidden drawing, and titles would be shown by the mouse.
    body = re.sub(r'\s(?:aria-[a-z]+|role)="[^"]*"', "", body)
    label = escape(alt_text, quote=True)
    return (
        f'<figure class="{kind}" role="img" aria-label="{label}" tabindex="0">{head}{body}</figure>'
    )


class Drawings(SphinxTransform):
    """Replace images of SVG files by the drawings themselves."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Look at every image of the page."""
        for image in list(self.document.findall(nodes.image)):
            uri = str(image["uri"])
            if not uri.endswith(".svg") or "://" in uri:
                continue
            file = Path(str(self.env.doc2path(self.env.docname))).parent / uri
            self.env.note_dependency(str(file))
            drawn = inline(file.read_text(encoding="utf-8"), file.stem, image.get("alt", ""))
            raw = nodes.raw("", drawn, format="html")
            above = image.parent
            # A figure may not stand in a paragraph.
            alone = isinstance(above, nodes.paragraph) and len(above) == 1
            (above if alone else image).replace_self(raw)


def setup(app: Sphinx) -> dict[str, bool]:
    """Draw them where pages are read."""
    app.add_transform(Drawings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
