"""Links in docstrings lead to the page of an object, by whatever path they name it.

``overparam.layers.select.select_parameters`` is documented as ``overparam.select_parameters``.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def _found(path: str) -> Any:
    """The object at a dotted path, or None."""
    names = path.split(".")
    for split in range(len(names), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(names[:split]))
        except ImportError:
            continue
        for name in names[split:]:
            value = getattr(value, name, None)
        return value
    return None


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not target.startswith("overparam"):
        return None
    wanted = _found(target)
    if wanted is None or not getattr(wanted, "__name__", None):
        return None
    domain = env.domains.python_domain
    for name, entry in domain.objects.items():
        if name.rpartition(".")[2] == wanted.__name__ and _found(name) is wanted:
            uri = app.builder.get_relative_uri(env.docname, entry.docname)
            link = nodes.reference("", "", internal=True, refuri=f"{uri}#{entry.node_id}")
            link.append(content)
            return link
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Look for objects where a link finds no name."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
