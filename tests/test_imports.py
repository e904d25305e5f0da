"""What each surface may load: help answers at once, describing needs no torch, forecasting no Lightning."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import sys, contextlib, io
from latentode.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main({arguments!r})
print(",".join(name for name in {names!r} if name in sys.modules))
"""


def loaded(arguments, names):
    code = PROBE.format(arguments=arguments, names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["describe"], ["fit"], ["validate"], ["forecast"], ["evaluate"], ["runs"], ["completion"]]
)
def test_help_loads_neither_torch_nor_pandas(command):
    assert (
        loaded([*command, "--help"], ["torch", "pytorch_lightning", "jsonargparse", "pandas", "pyarrow", "matplotlib"])
        == ""
    )


def test_describe_needs_no_torch(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("series_id,time,x\na,1,2\na,2,3\na,4,3\n")
    assert loaded(["describe", str(path)], ["torch", "pytorch_lightning"]) == ""


def test_the_package_itself_loads_nothing_heavy():
    code = "import latentode, latentode.data, sys; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("arguments", [["completion", "bash"], ["completion", "zsh"], ["runs", "."]])
def test_completion_and_the_index_of_runs_need_no_torch(arguments):
    assert loaded(arguments, ["torch", "pytorch_lightning", "pandas"]) == ""
