"""A hook of MkDocs: `folder/*` in the navigation stands for the pages of that folder that are not named beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the folders."""
    config.nav = [_filled(entry, Path(config.docs_dir)) for entry in config.nav or []]
    return config


def _filled(entry: Any, docs: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {title: _fill(pages, docs) if isinstance(pages, list) else pages for title, pages in entry.items()}


def _fill(pages: list[Any], docs: Path) -> list[Any]:
    """Give the pages of one section; a page that a folder adds stands in the order of its file name."""
    filled: list[Any] = []
    for page in pages:
        if isinstance(page, str) and page.endswith("/*"):
            found = (str(path.relative_to(docs).as_posix()) for path in sorted(docs.glob(f"{page}.md")))
            filled += [path for path in found if path not in pages]
        else:
            filled.append(page)
    return filled
