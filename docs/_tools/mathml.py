"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)
# Browsers choose the size of brackets and fractions; docutils does not know these words.
_SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![A-Za-z])")


def mathml(formula: str, block: bool) -> str:
    """A formula of LaTeX as MathML.

    Raises:
        MathError: docutils does not know a command in it.
    """
    formula = re.sub(r"\n\s*\n", "\n", _SIZES.sub("", formula).strip())
    return str(tex2mathml(formula, as_block=block))


def _drawn(node: nodes.math | nodes.math_block, block: bool) -> str:
    try:
        return mathml(node.astext(), block)
    except MathError as error:
        _LOGGER.warning("docutils cannot draw %r: %s", node.astext(), error, location=node)
        return ""


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_drawn(node, block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{_drawn(node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name ``mathml``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
