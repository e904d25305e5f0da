"""What no module of latentode may call: each is a way in which a file could run code, leave its folder, or be fetched."""

from __future__ import annotations

import ast
from pathlib import Path

import latentode

PACKAGE = Path(latentode.__file__).parent
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "import_module", "system", "popen", "Popen", "check_output", "read_pickle", "urlopen",
    "urlretrieve", "load_from_checkpoint", "load_state_dict_from_url", "unsafe_load", "full_load", "load_all", "extractall", "unpack_archive",
    "add_safe_globals", "load_module", "run_path",
}  # fmt: skip
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "tarfile",
    "subprocess",
    "fsspec",
    "requests",
}
# Where one of them is needed, and why it is none of these ways.
ALLOWED = {
    ("models/registry.py", "import_module"),  # modules that the user names
    ("lazy.py", "import_module"),  # our own names
    ("models/plain_file.py", "pickle"),  # its error
    (
        "forecasting/on_ray.py",
        "pickle",
    ),  # between processes that Ray has started for this very command; nothing of it comes from a file
    ("training/launching.py", "subprocess"),  # this very command once more, for processes that train together
    ("training/launching.py", "Popen"),
    (
        "training/loggers.py",
        "import_module",
    ),  # a class path that the user names; one from a run folder is checked before
}


def names_in(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            # `re.compile` and `module.eval()` make no code of a text.
            is_method = isinstance(function, ast.Attribute) and name in ("eval", "exec", "compile")
            if name in FORBIDDEN and not is_method:
                found.add(name)
            if name == "load" and getattr(getattr(function, "value", None), "id", "") in (
                "torch",
                "np",
                "yaml",
                "numpy",
            ):
                keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                if keywords.get("weights_only") is not True:
                    found.add("load")
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0]} & MODULES
    return found


def test_no_module_has_a_way_to_run_or_fetch_what_a_file_says():
    used = {(str(path.relative_to(PACKAGE)), name) for path in PACKAGE.rglob("*.py") for name in names_in(path)}
    assert used - ALLOWED == set()
    assert ALLOWED & {("models/registry.py", "import_module"), ("models/plain_file.py", "pickle")} <= used
