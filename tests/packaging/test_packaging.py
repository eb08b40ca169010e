"""Wheel and sdist: built, complete, installed into an empty environment, and used there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "self_rewarding_lm_pytorch"
LEFT_OUT = shutil.ignore_patterns(
    ".*", "runs", "checkpoints", "build", "dist", "*.egg-info", "__pycache__", "*.pyc"
)
LARGEST_WHEEL = 2_000_000  # bytes


def ran(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, made of a copy of the repository; the wheel is made of the sdist."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    ran(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "dist",
        ".",
        cwd=folder / "source",
    )
    return folder


def wheel_of(built: Path) -> Path:
    (wheel,) = (built / "dist").glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package_and_nothing_else(built: Path) -> None:
    source = built / "source"
    wanted = {path.relative_to(source).as_posix() for path in (source / PACKAGE).rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel_of(built)) as wheel:
        found = set(wheel.namelist())
    assert wanted - found == set(), "listed in package-data of pyproject.toml?"
    others = {name.split("/")[0] for name in found - wanted}
    assert all(name.endswith(".dist-info") for name in others), others
    endings = {Path(name).suffix for name in found}
    assert {".py", ".typed", ".jinja", ".yaml", ".html", ".css", ".js"} <= endings
    assert wheel_of(built).stat().st_size < LARGEST_WHEEL


@pytest.mark.slow
def test_the_sdist_holds_what_its_readme_installs_with(built: Path) -> None:
    (sdist,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "constraints.txt", "CHANGELOG.md"} <= names
    assert f"{PACKAGE}/py.typed" in names


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    """As the README installs it, with torch first, from a folder that holds nothing of the repository."""
    ran(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = next(
        path for path in (tmp_path / "venv/bin/python", tmp_path / "venv/Scripts/python.exe") if path.exists()
    )
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    (torch,) = re.findall(r"^torch==.*", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    first = subprocess.run([*map(str, pip), torch], cwd=tmp_path, capture_output=True, text=True)
    if first.returncode:
        pytest.skip(f"no index to install {torch} from: {first.stderr[-300:]}")
    ran(*pip, wheel_of(built), cwd=tmp_path)
    shutil.copy(Path(__file__).with_name("smoke.py"), tmp_path / "smoke.py")
    (tmp_path / "empty").mkdir()
    assert "all of it works" in ran(python, tmp_path / "smoke.py", cwd=tmp_path / "empty")
