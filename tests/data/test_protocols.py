"""Where data are looked for, and what every registered protocol says of itself."""

from __future__ import annotations

import pytest

from latentode.data.datasets import DATASETS
from latentode.data.protocols import find_files
from latentode.errors import DataError

PROTOCOLS = [(name, protocol) for name, module in DATASETS.items() for protocol in module.PROTOCOLS.values()]
IDS = [f"{name}-{protocol.name}" for name, protocol in PROTOCOLS]


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS, ids=IDS)
def test_a_protocol_names_itself_its_source_and_its_splits(name, protocol):
    assert DATASETS[name].PROTOCOLS[protocol.name] is protocol
    assert protocol.source
    assert protocol.rules.endswith(".")
    assert protocol.average in ("macro", "pooled")
    assert len(set(protocol.splits)) == len(protocol.splits) > 0


def reads_files(module) -> bool:
    return not hasattr(module, "path") and "no file is read" not in " ".join(module.__doc__.split())


@pytest.mark.parametrize("name", [name for name, module in DATASETS.items() if reads_files(module)])
def test_data_that_are_absent_are_one_sentence_on_where_to_get_them(name, tmp_path):
    for protocol in DATASETS[name].PROTOCOLS.values():
        with pytest.raises(DataError, match=rf"{name}.* holds none of .*--data_dir"):
            protocol.build(tmp_path, protocol.splits[0])


def test_files_are_found_in_the_named_folder_then_the_environment_then_the_cache(tmp_path, monkeypatch):
    named, environment, home = (tmp_path / name for name in ("named", "environment", "home"))
    for folder in (named, environment, home / ".cache" / "latentode"):
        folder.mkdir(parents=True)
        (folder / "b.csv").write_text("x", encoding="utf-8")
    monkeypatch.setenv("LATENTODE_DATA", str(environment))
    monkeypatch.setenv("HOME", str(home))
    assert find_files("x", ("a.csv", "b.csv"), named, how="h") == named / "b.csv"
    assert find_files("x", ("a.csv", "b.csv"), None, how="h") == environment / "b.csv"
    monkeypatch.delenv("LATENTODE_DATA")
    assert find_files("x", ("a.csv", "b.csv"), None, how="h") == home / ".cache" / "latentode" / "b.csv"


def test_the_preferred_file_wins(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert find_files("x", ("b.csv", "a.csv"), tmp_path, how="h").name == "b.csv"


def test_nothing_found_names_all_that_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"rain: .* holds none of a.csv, b.csv; Get it. Name the folder"):
        find_files("rain", ("a.csv", "b.csv"), tmp_path, how="Get it.")
