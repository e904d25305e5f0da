r"""A hook of MkDocs: formulas become MathML, which every browser draws by itself, without a script or a font from elsewhere.

Markdown has them as `$a$` and `$$a$$`, docstrings as :math:`a` (see `docstrings.py`); arithmatex leaves both as `\(a\)` and `\[a\]`.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?P<open>\\\(|\\\[)(?P<tex>.*?)(?:\\\)|\\\])</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    """Convert the formulas of a page.

    Raises:
        Exception: a formula cannot be read; the converter's own, which ends the build.
    """
    return FORMULA.sub(_to_mathml, content)


def _to_mathml(found: re.Match[str]) -> str:
    display = "block" if found["open"] == r"\[" else "inline"
    mathml = convert(html.unescape(found["tex"]).strip(), display=display)
    # A wide formula scrolls by itself on a narrow screen.
    return f'<div class="formula">{mathml}</div>' if display == "block" else mathml
