"""Type checkers on a user's programs: mypy and pyright find planted mistakes, and find none in a right program.

Each runs against the checkout, as `pip install -e .` makes it importable, and against the installed wheel.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ("right.py", "mistakes.py")
Found = dict[str, set[int]]  # program -> the lines where a checker reports an error


def _mypy(python: pathlib.Path, folder: pathlib.Path) -> Found:
    command = [sys.executable, "-m", "mypy", "--config-file=", "--no-incremental", "--no-error-summary"]
    done = subprocess.run(
        [*command, f"--python-executable={python}", *PROGRAMS], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return _by_program(re.findall(r"^(\w+\.py):(\d+): error", done.stdout, re.MULTILINE))


def _pyright(python: pathlib.Path, folder: pathlib.Path) -> Found:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", str(python)]
    done = subprocess.run([*command, *PROGRAMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [d for d in json.loads(done.stdout)["generalDiagnostics"] if d["severity"] == "error"]
    return _by_program([(pathlib.Path(d["file"]).name, d["range"]["start"]["line"] + 1) for d in errors])


def _by_program(errors: list[tuple[str, int | str]]) -> Found:
    found: Found = {program: set() for program in PROGRAMS}
    for program, line in errors:
        found[program].add(int(line))
    return found


def _site_packages(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The interpreter of a new environment that sees this one's packages, and the folder of its own packages."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    [packages] = (tmp_path / "env").glob("[Ll]ib/**/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, packages


@pytest.fixture(params=["checkout", pytest.param("wheel", marks=pytest.mark.exhaustive)])
def python(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """An interpreter for which qcompiler is the checkout or the wheel."""
    python, packages = _site_packages(tmp_path)
    if request.param == "checkout":
        (packages / "checkout.pth").write_text(f"{ROOT}\n")
    else:
        wheel: pathlib.Path = request.getfixturevalue("wheel")
        pip = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--no-index", "--target", str(packages)]
        subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return python


@pytest.mark.parametrize("checker", [_mypy, _pyright])
def test_planted_mistakes_are_found(
    checker: Callable[[pathlib.Path, pathlib.Path], Found], python: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for program in PROGRAMS:
        (tmp_path / program).write_text((HERE / program).read_text())
    lines = (HERE / "mistakes.py").read_text().splitlines()
    planted = {number for number, line in enumerate(lines, start=1) if "MISTAKE:" in line}
    assert len(planted) > 20
    assert checker(python, tmp_path) == {"right.py": set(), "mistakes.py": planted}


def test_the_right_program_runs(tmp_path: pathlib.Path) -> None:
    subprocess.run([sys.executable, str(HERE / "right.py")], cwd=tmp_path, check=True, capture_output=True)
