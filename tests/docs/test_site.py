"""The site holds what it promises: every public name, every command, every notebook with outputs of its own code."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")


def load(name: str):
    """Import a file of `tools/site`, as MkDocs does."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "tools" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_outputs_are_those_of_the_notebooks_code(path):
    page = load("notebooks").to_markdown(path, ROOT / "docs" / "tutorials" / "outputs" / path.stem)
    assert page.startswith("# ")
    assert "```python" in page


def test_a_notebook_whose_code_has_changed_is_refused(tmp_path):
    notebooks = load("notebooks")
    path = tmp_path / "story.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["print(1 + 1)\n", "'shown'"]}]}))
    notebooks.execute(path, tmp_path / "story")
    page = notebooks.to_markdown(path, tmp_path / "story")
    assert "2\n'shown'" in page
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["print(1 + 2)"]}]}))
    with pytest.raises(notebooks.PluginError, match="make notebooks NAME=story"):
        notebooks.to_markdown(path, tmp_path / "story")


@pytest.mark.parametrize(
    "package", ["latentode.ode", "latentode.models", "latentode.forecasting", "latentode.data", "latentode.metrics"]
)
def test_every_public_name_is_on_a_reference_page(package):
    reference = load("reference")
    text = "\n".join(reference.write_page(page) for page in reference.PAGES.values())
    missing = [
        name for name in reference.public_names(package) if f".{name}\n" not in text and f"### `{name}`" not in text
    ]
    assert not missing


def test_a_public_name_without_a_docstring_ends_the_build(monkeypatch):
    reference = load("reference")
    from latentode.errors import SolveError

    monkeypatch.setattr(SolveError, "__doc__", None)
    with pytest.raises(reference.PluginError, match="SolveError has no docstring"):
        reference.write_page(reference.PAGES["errors"])


def test_every_command_and_option_is_on_the_page_of_the_command_line():
    from latentode.cli import build_parser

    text = load("reference").write_commands()
    for name, parser in build_parser()[1].items():
        assert f"## `latentode {name}`" in text
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help"):
                    assert option.replace("_", "&#95;") in text, f"{name} {option}"


def test_formulas_become_mathml_and_other_text_stays():
    content = load("mathematics").on_page_content(
        '<p>of <span class="arithmatex">\\(a_1 &lt; b\\)</span>.</p><div class="arithmatex">\\[\\frac{x}{y}\\]</div>'
    )
    assert content.startswith("<p>of <math")
    assert "<mfrac>" in content
    assert "arithmatex" not in content
    assert "&#x0003C;" in content


def test_arguments_told_together_stand_one_by_one():
    pytest.importorskip("griffe")
    text = load("docstrings").to_markdown(
        "Solve.\n\nArgs:\n    rtol, atol: tolerances.\n        Per step.\n    y0: start.\n\nExample:\n    >>> 1\n"
    )
    assert "    rtol: (with `atol`) tolerances.\n        Per step.\n    atol: see `rtol`.\n    y0: start." in text
    assert "Examples:\n    >>> 1" in text


def test_a_folder_in_the_navigation_stands_for_the_pages_that_are_not_named(tmp_path):
    (tmp_path / "how").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "how" / f"{name}.md").write_text("# page")
    filled = load("navigation")._filled({"How": ["how/c.md", "how/*"]}, tmp_path)
    assert filled == {"How": ["how/c.md", "how/a.md", "how/b.md"]}
