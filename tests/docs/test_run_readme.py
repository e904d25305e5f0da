"""The runner of README blocks runs what a reader would run, and fails when a block fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).with_name("run_readme.py")


def run(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "PAGE.md"
    path.write_text(text, encoding="utf-8")
    return subprocess.run([sys.executable, str(RUNNER), str(path)], capture_output=True, text=True, check=False)


def test_blocks_run_in_order_in_one_folder_and_one_namespace(tmp_path):
    done = run(
        tmp_path,
        "```bash\necho 3 > n.txt\n```\ntext\n```python\nn = int(open('n.txt').read())\n```\n"
        "```python\nassert n == 3\n```\n```yaml\nnot: run\n```\n",
    )
    assert done.returncode == 0, done.stderr
    assert "3 blocks ran" in done.stdout


def test_a_failing_shell_line_stops_its_block_and_names_the_line(tmp_path):
    done = run(tmp_path, "# title\n\n```bash\nfalse\necho late\n```\n```bash\necho after\n```\n")
    assert done.returncode == 1
    assert "PAGE.md:3 (bash)" in done.stderr
    assert "late" not in done.stdout
    assert "after" not in done.stdout


def test_a_raising_python_block_fails_the_run(tmp_path):
    done = run(tmp_path, "```python\n1 / 0\n```\n")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_block_marked_not_run_is_skipped_with_its_reason_and_the_next_one_runs(tmp_path):
    done = run(tmp_path, "<!-- not run: it installs -->\n```bash\nfalse\n```\n```bash\necho done\n```\n")
    assert done.returncode == 0, done.stderr
    assert "not run: it installs" in done.stdout
    assert "1 blocks ran" in done.stdout


def test_a_block_that_is_never_closed_is_an_error(tmp_path):
    done = run(tmp_path, "```bash\necho 1\n")
    assert done.returncode == 1
    assert "never closed" in done.stderr


def test_pages_of_a_folder_share_what_they_make_and_the_index_comes_first(tmp_path):
    (tmp_path / "how").mkdir()
    (tmp_path / "how" / "a.md").write_text("```python\nimport made\nassert made.n == 3\n```\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("```python\nassert 'made' not in dir()\n```\n", encoding="utf-8")
    (tmp_path / "index.md").write_text("```bash\necho 'n = 3' > made.py\n```\n", encoding="utf-8")
    done = subprocess.run([sys.executable, str(RUNNER), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("index.md: 1 blocks ran") < done.stdout.index("b.md: 1 blocks ran")
    assert "a.md: 1 blocks ran" in done.stdout
