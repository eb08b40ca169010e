"""Every kind of stage, and what a plan may add to one, on two processes: rows and figures of one process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import Script, byte_codec
from tests.processes.launch import losses, plan_file, start, train
from tests.stages import worlds
from tests.stages.worlds import ITEMS, PAIRS, PROMPTS, QUIET, STAGES, TEMPLATE, rows, without_seconds

pytestmark = pytest.mark.slow

JUDGED = [
    {"prompt": f"q{n}?", "response": response, "score": score}
    for n in range(3)
    for response, score in ((f"yes {n}", 5), ("no", 1), ("so.", 3))
]
VOTES = {"template": TEMPLATE, "votes": 1, "unparsed": "force", "max_new_tokens": 3}
CARD = {"data": JUDGED, "judge": VOTES, "guard": {"min": 0.99, "max_fall": None}}
STOPPER = {
    "kind": "win_rate",
    "prompts": PROMPTS[:3],
    "max_new_tokens": 8,
    "temperature": 1.5,
    "judge": VOTES,
}
LIVE = {key: value for key, value in STAGES["live"].items() if key != "reward"}

KINDS: dict[str, dict[str, Any]] = {
    "seed": {**STAGES["seed"], "valid_data": ITEMS[:3], "validate_every": 1},
    "meta": STAGES["meta"],
    "temporal": {**STAGES["text"], "temporal": {"past": "initial"}},
    "consistent": {**STAGES["own"], "consistency": {"past": "initial"}},
    "recycled": {**STAGES["text"], "num_pairs": 6, "pairing": {"recycle": 2}},
    "stopped": {
        **STAGES["given"],
        "num_steps": 4,
        "early_stop_every": 1,
        "learning_rate": 1e-1,
        "early_stopper": STOPPER,
        "valid_data": PAIRS[:3],
        "checkpoint_every": 1,
    },
    "replayed": {
        **STAGES["text"],
        "replay": ITEMS,
        "start_from": "seed",
        "train": {"batch_size": 2, "replay_batch_size": 2, "learning_rate": 1e-2},
    },
    "moving": {**STAGES["given"], "reference": "ema", "reference_ema_decay": 0.9},
    "online": {**LIVE, "judge": {"mode": "expected", "template": TEMPLATE}},
    "pairwise": {
        **STAGES["own"],
        "judge": {"mode": "pairwise", "template": "{{ prompt }} {{ first }} {{ second }}"},
    },
}

SEEDS = [f"say {name} again" for name in ("one", "two", "three", "four", "five", "six", "seven", "eight")]
SCORES = {"template": "{{ prompt }} {{ response }}\x01", "score_pattern": "{{ reward }}", "votes": 2}
SCORES |= {"max_new_tokens": 30, "temperature": 1.0, "top_p": None}
WRITTEN: dict[str, dict[str, Any]] = {
    "new": {"kind": "self_instruct", "seeds": SEEDS, "num": 5, "template": "{{ shots | join(' ') }}\x01"},
    "judged": {
        "kind": "sft",
        "num_steps": 2,
        "batch_size": 4,
        "judge_data": {
            "data": [{"prompt": f"q{n}?", "chosen": f"good {n}", "rejected": "bad"} for n in range(12)],
            "judge": SCORES,
        },
    },
    "own": {
        "kind": "self_reward",
        "prompts": {"made_by": "new"},
        "candidates": {"num": 3, "temperature": 1.0, "max_new_tokens": 6},
        "judge": SCORES,
        "train": {"batch_size": 2, "learning_rate": 1e-3},
    },
    "more": {
        "kind": "self_instruct",
        "seeds": SEEDS,
        "num": 3,
        "template": "{{ shots | join(' ') }}\x01",
        "writer": "tests.processes.test_stage_kinds:writer",
    },
}


def writer() -> tuple[nn.Module, Any]:
    return Script(b" tell ?????? why ??????", wild=b"abcde012345"), byte_codec()


def without_dropout(stages: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Dropout is drawn by micro-batch, and those are smaller where they are divided."""
    found = [{"name": name, **stage} for name, stage in stages.items()]
    trained = [stage for stage in found if stage["kind"] != "self_instruct"]
    for stage in trained:
        stage["train"] = {**stage.get("train", {}), "dropout": 0.0}
    return found


def assert_alike(found: Any, expected: Any, where: str = "") -> None:
    """Equal but for the rounding of sums in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_alike(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            assert_alike(found[place], value, f"{where}.{place}")
    elif isinstance(expected, float) and isinstance(found, float):
        assert math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-7), (where, found, expected)
    else:
        assert found == expected, where


def assert_the_run_of_one_process(folder: Path, *stages: dict[str, Any], **keys: Any) -> Path:
    run(plan_file(folder / "alone", *stages, **keys), reporter=QUIET)
    code, said = train(plan_file(folder / "together", *stages, **keys))
    assert code == 0, said
    ours, alone = folder / "together" / "run", folder / "alone" / "run"
    assert_alike(rows(ours), rows(alone))
    assert_alike([list(line) for line in losses(ours)], [list(line) for line in losses(alone)])
    assert_alike(*(without_seconds(worlds.written_summary(place)) for place in (ours, alone)))
    for file in (
        "alarms.jsonl",
        *(f"stages/{path}" for path in ("01-new/prompts.jsonl", "02-judged/held-out.jsonl")),
    ):
        assert (ours / file).exists() == (alone / file).exists()
        assert not (ours / file).exists() or (ours / file).read_text() == (alone / file).read_text()
    return ours


def test_every_kind_of_stage_makes_what_one_process_makes(tmp_path: Path) -> None:
    place = assert_the_run_of_one_process(tmp_path, *without_dropout(KINDS), report_card=CARD)
    assert (place / "alarms.jsonl").exists(), "the guard of the report card has spoken"
    (place / "summary.json").unlink()  # as where a run is cut off just before it is written
    code, said = train(tmp_path / "together" / "plan.yaml")
    assert code == 0, said
    assert (place / "summary.json").exists()


def test_written_prompts_and_judge_data_are_those_of_one_process(tmp_path: Path) -> None:
    assert_the_run_of_one_process(
        tmp_path,
        *without_dropout(WRITTEN),
        model="tests.processes.test_stage_kinds:writer",
        report_card={"data": {"held_out_of": "judged"}, "probes": False},
    )


def failing() -> tuple[nn.Module, Any]:
    """A model whose training fails in the second process alone."""
    import os

    from tests.processes.launch import factory

    module, codec = factory()

    def hook(part: nn.Module, *arguments: Any) -> None:
        if part.training and os.environ.get("RANK") == "1":
            raise RuntimeError("this process alone has no memory left")

    module.model.register_forward_pre_hook(hook)
    return module, codec


def test_an_online_stage_that_fails_in_one_process_ends_in_all(tmp_path: Path) -> None:
    stage = {"name": "live", **STAGES["live"]}
    plan = plan_file(tmp_path, stage, model="tests.processes.test_stage_kinds:failing")
    child = start(["self_rewarding_lm_pytorch", "train", str(plan)])
    try:
        said, _ = child.communicate(timeout=120)
    finally:
        child.terminate()  # the launcher ends its processes
    assert child.returncode != 0
    assert "this process alone has no memory left" in said
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
