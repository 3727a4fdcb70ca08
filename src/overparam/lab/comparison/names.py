"""Names with options, as they are typed: ``adamw(weight_decay=0.1)``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any


def parse_call(text: str, what: str) -> tuple[str, dict[str, Any]]:
    """A word and its options, which are Python literals.

    Args:
        text: ``word`` or ``word(name=value, ...)``.
        what: what the word names, for messages.

    Raises:
        ValueError: it is something else.

    Example:
        >>> parse_call("adamw(betas=(0.9, 0.95))", "optimizer")
        ('adamw', {'betas': (0.9, 0.95)})
        >>> parse_call("digits-mlp", "problem")
        ('digits-mlp', {})
    """
    word, bracket, rest = text.strip().partition("(")
    if not bracket:
        return word, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        options = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{what} {text!r} is not understood; write options as {word}(name=value), with plain "
            "numbers, strings or tuples."
        ) from None
    return word, options


def folder_name(problem: str) -> str:
    """A name for a folder, from the name of a problem.

    Example:
        >>> folder_name("code/train.py:problem"), folder_name("train.py"), folder_name("mlp(n=1)")
        ('train', 'train', 'mlp-n-1')
    """
    path = problem.rpartition(":")[0] if ".py:" in problem else problem
    word = Path(path).stem if path.endswith(".py") else problem
    kept = "".join(c if c.isalnum() or c in "._-" else " " for c in word)
    return "-".join(kept.split())
