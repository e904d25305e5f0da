"""What the parser of `fit` says of a wrong option or configuration file, in one sentence that names the nearest right one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

from latentode.errors import did_you_mean
from latentode.models.registry import CLASSES

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "dict": "a table",
    "list": "a list",
}
OF_EVERY_COMMAND = ("--quiet", "--json", "--traceback")  # which this parser does not see

_UNKNOWN = (
    re.compile(r"(?:[Uu]nrecognized arguments?|Unknown option).*?(--[\w.]+)"),
    re.compile(r"[Kk]ey ['\"]?([\w.]+)['\"]? is not expected"),
    re.compile(r"^Option '([\w.]+)' is not accepted"),
)
_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
_CLASS = re.compile(
    r"Problem with given class_path '([\w.]+)': (?:module .*? has no (attribute)|Option '([\w.]+)' is not accepted)"
)
_KIND = re.compile(r"Parser key \"([\w.]+)\": (.*?)(?:Got|Given) value(?: type)?: (.*)")
_FILE = re.compile(r"Parser key \"config\": File does not exist: '(.*?)'")


def explain(message: str, known: Sequence[str], command: str) -> str:
    """Turn the parser's message into one sentence.

    Args:
        message: of the parser.
        known: all options.
        command: of `latentode`.
    """
    text = " ".join(message.split())
    see = f"see `latentode {command} --help` or --help.all."
    classes = _CLASS.findall(text)
    if classes:
        # Parts within parts are told from the outside in.
        return _explain_class(*classes[-1])
    option = _find_unknown(text)
    if option:
        # One that is in the short help is the likelier one.
        near = did_you_mean(option, [*(name for name in known if name.startswith("--")), *OF_EVERY_COMMAND])
        return f"{option} is no option of `latentode {command}`" + (f"{near}." if near else f"; {see}")
    missing = _FILE.search(text)
    if missing:
        path = Path(missing[1])
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
        return f"there is no file {path}{did_you_mean(path.name, beside)}; name a YAML file with --config."
    if text.startswith("Problems parsing config"):
        return f"the file of --config is no YAML ({text.partition(': ')[2][:200]})."
    kind = _KIND.search(text)
    if kind and not kind[1].endswith("network"):
        names = [KINDS[name] for name in re.findall(r"<class '(\w+)'>", kind[2]) if name in KINDS]
        value = kind[3].rpartition("Given value: ")[2]
        if names:
            return f"--{kind[1]} is '{value[:80]}'; it takes {' or '.join(dict.fromkeys(names))}."
    lacks = re.fullmatch(r"argument (\S+): expected one argument", text)
    if lacks:
        return f"{lacks[1]} lacks its value; {see}"
    stray = re.fullmatch(r"[Uu]nrecognized arguments: (.*)", text)
    if stray:
        hint = f"; the table is named with --data.path {stray[1]}." if Path(stray[1]).exists() else f"; {see}"
        return f"`latentode {command}` does not know what to do with '{stray[1]}'{hint}"
    return f"{text[:600].rstrip('.')}; {see}"


def _find_unknown(text: str) -> str | None:
    group = _GROUP.search(text)
    if group:
        return f"--{group[1]}.{group[2]}"
    found = next((match for pattern in _UNKNOWN if (match := pattern.search(text))), None)
    return None if found is None else f"--{found[1].removeprefix('--')}"


def _explain_class(path: str, is_missing: str, setting: str) -> str:
    package, _, name = path.rpartition(".")
    if is_missing:
        return f"class_path is '{path}', and {package} has no '{name}'{did_you_mean(name, CLASSES)}."
    if name not in CLASSES:
        return f"{path} has no setting '{setting}'."
    settings = list(inspect.signature(CLASSES[name]).parameters)
    told = f"it has {', '.join(settings)}" if settings else "it has none"
    return f"{name} has no setting '{setting}'{did_you_mean(setting, settings)}; {told}."
