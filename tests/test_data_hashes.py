"""A run knows which data files it began with."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec
from tests.stages.worlds import plain


def cut_off(*arguments: Any) -> None:
    raise RuntimeError("cut off")


def test_the_manifest_holds_the_hash_of_each_data_file_and_a_changed_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "ab", "response": "cd"}\n')
    plan = {
        "model": plain(),
        "tokenizer": byte_codec(),
        "run": tmp_path / "run",
        "stages": [
            {"name": name, "kind": "sft", "data": str(data), "num_steps": 1} for name in ("one", "two")
        ],
    }
    with pytest.raises(RuntimeError, match="cut off"):
        run(plan, after_stage=cut_off)
    kept = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    assert kept == {str(data): hashlib.sha256(data.read_bytes()).hexdigest()}
    assert "changed" not in capsys.readouterr().out

    data.write_text('{"prompt": "ab", "response": "xy"}\n')
    with pytest.raises(
        ConfigError, match=r"data\.jsonl: what is in it is not what it was.*(?s:.*)--allow-changed"
    ):
        run(plan)
    run(plan, allow_changed=True)
    assert "gone on with: file" in " ".join(capsys.readouterr().out.split())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["data"] == {str(data): hashlib.sha256(data.read_bytes()).hexdigest()}
    (change,) = manifest["changes"]
    assert change["stage"] == "two", "the first stage had read the file as it was"
    assert "data.jsonl" in change["changed"][0]


def test_files_named_deep_in_a_stage_are_hashed_too(tmp_path: Path) -> None:
    names = ("judged", "seeds", "near", "validation")
    files = {name: tmp_path / f"{name}.jsonl" for name in names}
    rows = '{"prompt": "ab", "response": "cd", "score": 1}\n{"prompt": "ab", "response": "ef", "score": 2}\n'
    for path in files.values():
        path.write_text(rows)
    stages = [
        {"kind": "sft", "judge_data": {"data": str(files["judged"])}},
        {
            "kind": "self_instruct",
            "num": 1,
            "seeds": str(files["seeds"]),
            "evaluation_sets": {"near": str(files["near"])},
        },
        {
            "kind": "self_reward",
            "prompts": {"made_by": "self_instruct"},
            "early_stopper": {"kind": "win_rate", "prompts": str(files["validation"]), "judge": {}},
        },
    ]
    plan = load_plan({"model": plain(), "run": tmp_path / "run", "stages": stages})
    named = [str(source) for stage in plan.stages for source in stage.data_sources() if source is not None]
    assert {str(path) for path in files.values()} <= set(named)
