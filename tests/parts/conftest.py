"""A folder with a model and data, and a run of three stages in it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from self_rewarding_lm_pytorch.pipeline import run
from tests.parts.worlds import PLAN, QUIET, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture
def there(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


@pytest.fixture(scope="session")
def finished(world: Path) -> Path:
    """A run of three stages in float64, in which tokens do not depend on what is sampled together."""
    (world / "plan.yaml").write_text(PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        run("plan.yaml", reporter=QUIET)
    return world / "runs" / "tiny"
