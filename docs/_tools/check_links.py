"""Check every link inside a built site: the file and the place in it exist.

python docs/_tools/check_links.py docs/_build/html
"""

from __future__ import annotations

import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The links and the named places of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def broken_links(site: Path) -> dict[Path, list[str]]:
    """The links of each page that lead nowhere; links to other sites are not followed."""
    pages: dict[Path, _Page] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = _Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    broken: dict[Path, list[str]] = defaultdict(list)
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path.parent / unquote(parts.path) if parts.path else path
            target = target.resolve()
            place = unquote(parts.fragment)
            if not target.is_file() or (
                place and target in pages and place not in pages[target].places
            ):
                broken[path].append(link)
    return broken


def main(site: Path) -> int:
    """Print what is broken; returns the exit status."""
    broken = broken_links(site.resolve())
    for path, links in broken.items():
        print(f"{path.relative_to(site.resolve())}: {', '.join(links)}", file=sys.stderr)
    print(f"{sum(map(len, broken.values()))} broken link(s) inside the site")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
