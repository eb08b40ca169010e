"""A plan that lies in a folder of its own brings its model, its judge's model and its code with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.overview.plan import overview
from self_rewarding_lm_pytorch.pipeline import run
from tests.cli.test_cli import write_world
from tests.stages.worlds import QUIET

OWN = """
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.losses import PreferenceLoss
from pathlib import Path
def make():
    policy, codec = load_policy(str(Path(__file__).parent / "tiny"))
    return policy.module, codec
LOSS = PreferenceLoss("own", lambda logprobs, beta: beta * (logprobs.rejected - logprobs.chosen),
                      needs_reference=False)
"""


def plan_in_its_folder(place: Path, model: str) -> Path:
    folder = place / "project"
    folder.mkdir()
    write_world(folder)
    (folder / "own.py").write_text(OWN)
    (folder / "pairs.jsonl").write_text(
        json.dumps({"prompt": "q?", "chosen": "yes", "rejected": "no"}) + "\n"
    )
    (folder / "tiny").rename(folder / "judge")
    write_world(folder)
    plan = {
        "model": model,
        "run": str(place / "run"),
        "stages": [
            {"kind": "dpo", "data": "pairs.jsonl", "num_steps": 1, "loss": "own.py:LOSS"},
            {
                "kind": "self_reward",
                "prompts": "prompts.txt",
                "num_pairs": 2,
                "candidates": {"num": 2, "temperature": 1.0, "max_new_tokens": 6},
                "judge": {"model": "judge", "votes": 1, "unparsed": "force", "max_new_tokens": 4},
                "train": {"num_steps": 1, "batch_size": 2},
            },
        ],
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder / "plan.yaml"


@pytest.mark.parametrize("model", ["tiny", "own.py:make"])
def test_all_that_a_plan_names_is_found_beside_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan_in_its_folder(tmp_path, model)
    (tmp_path / "elsewhere" / "tiny").mkdir(parents=True)  # of the same name, and no model
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert overview(load_plan(path)).problems == []
    assert run(path, reporter=QUIET)["status"] == "completed"
    noted = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert {"judge", model} <= set(noted["models"])
    (path.parent / "own.py").write_text(OWN + "\n# changed\n")
    noted["stages"][1]["state"], noted["status"] = "pending", "running"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(noted))
    if model == "own.py:make":
        with pytest.raises(ConfigError, match=r"file own\.py: what is in it is not what it was"):
            run(path, reporter=QUIET)


def test_a_models_name_that_is_not_in_its_file_is_told_before_the_run(tmp_path: Path) -> None:
    path = plan_in_its_folder(tmp_path, "own.py:mak")
    (problem,) = overview(load_plan(path)).problems
    assert "model 'own.py:mak' cannot be loaded: unknown name 'mak'" in problem
    assert "Did you mean 'make'? Give file.py:name" in problem
    assert ".." not in problem
