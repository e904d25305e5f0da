"""Every reader answers mutated files with what they hold or with a sentence; the long run is `make fuzz`."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentode.cli import main
from latentode.data.plain import parse_yaml
from latentode.errors import InputError
from tests.fuzz.readers import NAMES, holds, make_reader, mutate, mutate_seed

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = Path(__file__).parent / "cases"
SLOW = {"checkpoint": 15, "config_yaml": 10}  # examples
FAST = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True, database=None
)
reader_of = cache(make_reader)


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read(name, tmp_path):
    # Else the fuzzing would begin with what is refused at the door.
    for seed in reader_of(name).seeds:
        assert holds(reader_of(name), seed, tmp_path) == "read"


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files_are_read_or_refused_in_a_sentence(name, tmp_path):
    @settings(FAST, max_examples=SLOW.get(name, 60))
    @given(st.integers(0, 2**32), st.integers(1, 3))
    def check(seed, n_times):
        rng, reader = random.Random(seed), reader_of(name)
        data = rng.choice(reader.seeds)
        for _ in range(n_times):
            data = mutate_seed(reader, data, rng)
        assert holds(reader, data, tmp_path) in ("read", "refused")

    check()


@pytest.mark.parametrize("name", ["csv", "parquet", "checkpoint", "record_json", "model_yaml"])
@settings(FAST, max_examples=25)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_in_a_sentence(name, data, tmp_path):
    assert holds(reader_of(name), data, tmp_path) in ("read", "refused")


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_failed_does_so_no_more(case, tmp_path):
    assert holds(reader_of(case.parent.name), case.read_bytes(), tmp_path) == "refused"


def test_the_command_gives_a_sentence_and_a_status_for_whatever_it_reads(tmp_path, capsys):
    path = tmp_path / "data"
    for i in range(40):
        path.write_bytes(mutate(reader_of(("csv", "parquet", "gzip")[i % 3]), random.Random(i)))
        status = main(["describe", str(path)])
        told = capsys.readouterr().err.strip().splitlines()
        assert status in (0, 2), told
        assert status == 0 or (len(told) == 1 and told[0].startswith("error: "))


@settings(FAST, max_examples=100)
@given(st.text(max_size=60))
def test_yaml_is_plain_values_or_is_refused(text):
    told: list[str] = []
    try:
        parse_yaml(text, "it")
    except InputError as error:
        told.append(str(error))
    assert all(line.startswith("it ") for line in told)
