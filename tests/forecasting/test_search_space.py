"""Search spaces in YAML: what is read, and how what cannot be read is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentode.errors import InputError
from latentode.forecasting.search_space import as_option, as_text, check_keys, parse_space, read_space

CONFIGS = Path(__file__).parents[2] / "configs"


def read(line):
    return parse_space(f"# a comment\n{line}\n", "space.yaml")[0]


def test_ranges_and_lists_are_read_with_their_lines():
    text = "a.b: {low: 1.0e-3, high: 1e-1, log: true}\n\nc: [1, 2, null]\nd: {low: 8, high: 63, step: 8}\ne: {low: 0, high: 1.5}\n"
    a, c, d, e = parse_space(text, "space.yaml")
    assert (a.key, a.line, a.low, a.high, a.is_log) == ("a.b", 1, 0.001, 0.1, True)
    assert (c.line, c.choices) == (3, (1, 2, None))
    assert (d.line, d.low, d.high, d.step, d.is_whole) == (4, 8, 56, 8, True)
    assert not e.is_whole
    assert [
        setting.holds(value) for setting, value in ((a, 0.01), (a, 0.5), (c, None), (c, 1.0), (d, 24), (d, 20))
    ] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model.learning_rate: 0.1", ["space.yaml:2", "model.learning_rate", "a list"]),
        ("model.learning_rate: [0.1]", ["space.yaml:2", "two or more"]),
        ("model.learning_rate: [0.1, 0.1]", ["each once"]),
        ("model.learning_rate: {lo: 0.1, high: 1}", ["'lo'", "did you mean 'low'"]),
        ("model.learning_rate: {low: 0.1}", ["no high"]),
        ("model.learning_rate: {low: 1, high: 0.1}", ["less than high"]),
        ("model.learning_rate: {low: 0, high: 1.0, log: true}", ["above 0"]),
        ("model.learning_rate: {low: 1, high: 2, log: true, step: 1}", ["keep one"]),
        ("model.learning_rate: {low: 1, high: 2, step: 3}", ["step is 3"]),
        ("model.learning_rate: {low: x, high: 2}", ["low is 'x'", "a number"]),
        ("model.learning_rate: {low: 1, high: 2, log: 1}", ["true or false"]),
        ("model.learning_rate: [1, 2]\nmodel.learning_rate: [3, 4]", ["space.yaml:3", "line 2"]),
        ("seed_everything: [1, 2]", ["space.yaml:2", "lucky"]),
        ("data.horizon: [1, 2]", ["space.yaml:2", "compared", "max_history"]),
        ("model: {learning_rate: [1, 2]}", ["'learning_rate'", "low and high"]),
        ("- a", ["names no setting"]),
        ("a: [", ["no YAML"]),
    ],
)
def test_what_is_no_space_is_refused_by_key_and_line(line, words):
    with pytest.raises(InputError) as refused:
        read(line)
    assert [word for word in words if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


def test_an_unknown_key_is_refused_with_the_nearest_one():
    settings = [read("model.lerning_rate: [1, 2]")]
    with pytest.raises(InputError, match=r"space.yaml:2: model.lerning_rate is no setting .*'model.learning_rate'"):
        check_keys(settings, ["model.learning_rate", "data.path"], "space.yaml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_space(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("value", "option"),
    [
        (0.1, "--k=0.1"),
        (None, "--k=null"),
        (True, "--k=true"),
        ("blend", "--k=blend"),
        ({"class_path": "A"}, '--k={"class_path": "A"}'),
        (["hour"], '--k=["hour"]'),
    ],
)
def test_values_become_options(value, option):
    assert as_option("k", as_text(value)) == option


def test_the_shipped_space_is_read_and_holds_the_shipped_configuration():
    settings = {setting.key: setting for setting in read_space(CONFIGS / "tune" / "default.yaml")}
    assert settings["model.learning_rate"].holds(0.002)
    assert settings["data.max_history"].holds(512)
    assert settings["model.network.init_args.dynamics"].holds("latentode.models.MLPField")
