"""Settings are refused at the door, in one sentence that names the setting."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from latentode.data.settings import CHOICES, COLUMN_LISTS, DataSettings
from latentode.errors import InputError


def test_every_setting_has_one_line_of_help():
    texts = DataSettings.help_texts()
    assert list(texts) == [f.name for f in fields(DataSettings)]
    assert all(text and "\n" not in text for text in texts.values())


@pytest.mark.parametrize("name", CHOICES)
def test_word_that_is_no_choice_is_answered_with_the_nearest(name):
    right = CHOICES[name][0]
    with pytest.raises(
        InputError, match=f"^{name} is '{right}x', which is none of .* \\(did you mean '{right}'\\?\\)\\.$"
    ):
        DataSettings(**{name: f"{right}x"})
    with pytest.raises(InputError, match=f"^{name} is 'qq', which is none of {', '.join(CHOICES[name])}\\.$"):
        DataSettings(**{name: "qq"})


@pytest.mark.parametrize("name", ["max_history", "batch_size", "windows_per_epoch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "many", None, True])
def test_counts_are_positive_integers(name, value):
    with pytest.raises(InputError, match=f"^{name} is .*; give a whole number of at least 1\\.$"):
        DataSettings(**{name: value})


@pytest.mark.parametrize("name", ["val_fraction", "test_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan"), "half", None, True])
def test_fractions_lie_between_0_and_1(name, value):
    with pytest.raises(InputError, match=f"^{name} is .*; give a number from 0 up to, but not including, 1\\.$"):
        DataSettings(**{name: value})


def test_something_is_left_to_train_on():
    with pytest.raises(InputError, match=r"val_fraction 0\.5 and test_fraction 0\.5 leave nothing to train on"):
        DataSettings(val_fraction=0.5, test_fraction=0.5)


@pytest.mark.parametrize("name", ["horizon", "history"])
@pytest.mark.parametrize("value", [0, -1, -0.5, float("nan"), float("inf"), True, [1]])
def test_durations_as_numbers_are_positive(name, value):
    with pytest.raises(InputError, match=f'^{name} is .*; give a positive number or a duration such as "7d"\\.$'):
        DataSettings(**{name: value})


@pytest.mark.parametrize("name", COLUMN_LISTS)
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("temp", "give a list of column names"),
        (5, "give a list of column names"),
        (["a", 1], "give a list of column names"),
        ([], "name at least one column or leave it out"),
        (["a", "b", "a"], "names 'a' twice; name each column once"),
    ],
)
def test_channels_are_a_list_of_distinct_names(name, value, what):
    with pytest.raises(InputError, match=f"^{name} .*{what}\\.$"):
        DataSettings(**{name: value})


def test_numbers_of_numpy_are_numbers():
    settings = DataSettings(batch_size=np.int64(8), val_fraction=np.float32(0.25), horizon=np.int64(3))
    assert settings.batch_size == 8


def test_settings_need_neither_torch_nor_pandas():
    code = "import sys, latentode.data.settings; print([n for n in ('torch', 'pandas', 'pyarrow') if n in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
