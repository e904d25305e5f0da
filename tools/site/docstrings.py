"""Docstrings as the site's reader of the source knows them, an extension of Griffe.

Formulas come out of Sphinx's roles, one example becomes a section of examples, and arguments that are told together stand one by one.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
TOGETHER = re.compile(r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:,\s+\*{0,2}\w+)+): (?P<text>.*)$", re.MULTILINE)
ROLE = re.compile(r":math:`([^`]+)`")
BLOCK = re.compile(
    r"^(?P<indent> *)\.\. math::[ ]*(?P<first>[^\n]*)(?P<rest>(?:\n(?P=indent) +[^\n]*|\n[ ]*(?=\n))*)", re.MULTILINE
)


def to_markdown(text: str) -> str:
    r"""Rewrite a docstring.

    Example:
        >>> to_markdown("The share :math:`\\lambda`.")
        'The share $\\lambda$.'
    """
    # Griffe knows the plural only, and would set the prompt of a doctest as running text.
    text = EXAMPLE.sub(r"\1Examples:", text)
    text = ROLE.sub(r"$\1$", BLOCK.sub(_block, text))
    return _one_by_one(text)


def _block(found: re.Match[str]) -> str:
    body = "\n".join(part for part in (found["first"], textwrap.dedent(found["rest"]).strip()) if part)
    lines = " ".join(line.strip() for line in body.splitlines())
    return f"\n{found['indent']}$$\n{found['indent']}{lines}\n{found['indent']}$$\n"


def _one_by_one(text: str) -> str:
    """Give every argument of `rtol, atol: ...` an entry; the first has the text."""
    lines = text.split("\n")
    out: list[str] = []
    waiting: list[str] = []
    inner = ""
    i = 0
    while i < len(lines):
        # The names may fill a line or two before their colon.
        entry = "\n".join(lines[i : i + 4])
        found = TOGETHER.match(entry)
        line = lines[i]
        if waiting and not (line.startswith(inner) and line.strip()):
            out += waiting
            waiting = []
        if found is None:
            out.append(line)
            i += 1
            continue
        first, *others = re.split(r",\s+", found["names"])
        out.append(f"{found['indent']}{first}: (with {', '.join(f'`{name}`' for name in others)}) {found['text']}")
        waiting = [f"{found['indent']}{name}: see `{first}`." for name in others]
        inner = found["indent"] + " "
        i += found["names"].count("\n") + 1
    return "\n".join(out + waiting)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
