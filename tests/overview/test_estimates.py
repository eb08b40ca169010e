"""Tokens, memory and disk of whole plans, beside numbers worked by hand and runs that were made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.overview import estimates
from self_rewarding_lm_pytorch.overview.amounts import in_bytes, in_short
from self_rewarding_lm_pytorch.overview.disk import Disk, disk_in_all, free_bytes
from self_rewarding_lm_pytorch.overview.lengths import lengths_of
from self_rewarding_lm_pytorch.overview.plan import Overview, overview
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET, TEMPLATE, hugging_face, reward

PROMPTS = ["what of the sun?", "and the sea?", "why?"]  # 16, 12 and 4 bytes
PAIRS = [{"prompt": "why?", "chosen": "so it is", "rejected": "no"}] * 4
ROWS = [{"prompt": "why?", "response": "so"}] * 6
OWN: dict[str, Any] = {
    "kind": "self_reward",
    "prompts": PROMPTS,
    "num_pairs": 10,
    "candidates": {"num": 3, "max_new_tokens": 20},
    "judge": {"template": TEMPLATE, "votes": 2, "max_new_tokens": 5, "unparsed": "force"},
    "batch_size": 4,
    "dropout": 0.0,
}


def found(*stages: dict[str, Any], **changes: Any) -> Overview:
    plan = {"model": hugging_face(), "tokenizer": byte_codec(), "stages": list(stages), **changes}
    return overview(load_plan(plan))


def test_tokens_of_a_search_are_those_worked_by_hand() -> None:
    """10 visits of 3 answers of 20 tokens, each voted on twice in 5; a pair is a prompt and two answers."""
    tokens = found(OWN).estimates.stages[0].tokens
    assert (tokens.candidates, tokens.votes, tokens.most_visits) == (600, 300, 4)
    assert tokens.prompts == 32
    assert tokens.item == pytest.approx(32 / 3 + 40)
    assert (tokens.longest, tokens.step, tokens.is_rough) == (56, round(4 * (32 / 3 + 40)), False)


def first_alone(prompts: list[str], responses: list[str]) -> list[float]:
    """Ties but for one prompt's answers, so that a search visits and recycles as often as it may."""
    return [
        float(len(set(response))) * (prompt == PROMPTS[0])
        for prompt, response in zip(prompts, responses, strict=True)
    ]


REWARDED: dict[str, Any] = {
    **{key: OWN[key] for key in ("prompts", "batch_size", "dropout")},
    "kind": "external_reward",
    "reward": reward,
    "candidates": {"num": 2, "max_new_tokens": 12},
}
OTHERS: dict[str, dict[str, Any]] = {
    "recycled": {**REWARDED, "reward": first_alone, "num_pairs": 3, "pairing": {"recycle": 2}},
    "past": {**REWARDED, "temporal": {"past": "initial", "future": False}},
    "future": {**REWARDED, "temporal": {"past": "initial"}},
    "online": {**REWARDED, "kind": "online", "num_steps": 2},
    "spin": {"kind": "spin", "data": [{"prompt": "why?", "response": "so"}] * 3, "max_seq_len": 100},
    "spin to a budget": {"kind": "spin", "data": [{"prompt": "y" * n, "response": "so"} for n in (2, 120)]},
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_ways_to_sample_keep_to_what_was_said_too(name: str, tmp_path: Path) -> None:
    stages = [{**OTHERS[name], "batch_size": 2, "epochs": 1}]
    plan = {"model": hugging_face(), "tokenizer": byte_codec(), "run": tmp_path / "run", "stages": stages}
    shown = overview(load_plan(plan))
    tokens = shown.estimates.stages[0].tokens.as_dict()
    sampled = run(plan, reporter=QUIET)["stages"][0]["tokens_generated"]
    assert tokens["candidate_tokens_at_most"] / 13 < sampled <= tokens["candidate_tokens_at_most"]
    assert name != "recycled" or sampled > 4 * tokens["candidate_tokens"], "more than visits alone come to"


def test_a_future_models_training_is_counted() -> None:
    plain, future = found(REWARDED, {**OTHERS["future"], "name": "other"}).stages
    assert (plain.steps.number, future.steps.number) == (1, 2)


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({}, [2e-4]),
        ({"schedule": "constant"}, [1e-3]),
        ({"end_learning_rate": 0.0}, [0.0]),
        ({"schedule": "linear", "num_decay_steps": 12}, [1e-3 - 0.75 * (1e-3 - 2e-4)]),
    ],
)
def test_the_rate_is_shown_to_fall_to_what_it_falls_to(settings: dict[str, Any], ends: list[float]) -> None:
    sft = {"kind": "sft", "data": ROWS * 3, "batch_size": 2, "epochs": 1, "learning_rate": 1e-3, **settings}
    (stage,) = found(sft).stages
    assert stage.steps.number == 9
    assert list(stage.end_learning_rates) == pytest.approx(ends)


def test_each_iterations_end_rate_is_shown() -> None:
    spin = {"kind": "spin", "data": ROWS, "num_iterations": 2, "learning_rate": 1e-3}
    (stage,) = found({**spin, "per_iteration": [{}, {"learning_rate": 1e-4}]}).stages
    assert list(stage.learning_rates) == pytest.approx([1e-3, 1e-4])
    assert list(stage.end_learning_rates) == pytest.approx([1e-4, 1e-5])


def test_a_run_samples_no_more_than_was_said(tmp_path: Path) -> None:
    plan = {"model": hugging_face(), "tokenizer": byte_codec(), "run": tmp_path / "run", "stages": [OWN]}
    said = overview(load_plan(plan)).estimates
    summary = run(plan, reporter=QUIET)
    tokens = said.stages[0].tokens
    assert (
        0 < summary["stages"][0]["tokens_generated"] <= 4 * ((tokens.candidates or 0) + (tokens.votes or 0))
    )
    on_disk = sum(
        path.stat().st_size for path in (tmp_path / "run" / "stages").rglob("*.safetensors") if path.is_file()
    )
    checkpoint = said.stages[0].disk.checkpoints or 0
    assert checkpoint <= on_disk < checkpoint + 10_000, "the tensors, and their names"


def test_supervised_rows_and_pairs_are_measured_with_their_ends() -> None:
    sft = {"kind": "sft", "data": ROWS, "batch_size": 2}
    dpo = {"kind": "dpo", "data": PAIRS, "batch_size": 2}
    one, other = (each.tokens for each in found(sft, dpo).estimates.stages)
    assert one.item == 4 + 2 + 1
    assert other.item == 4 + (8 + 1) + (2 + 1)
    assert (one.step, other.step) == (14, 32)


def test_without_the_tokenizer_tokens_are_rough() -> None:
    plan = {
        "model": "nobody/model",
        "stages": [{"kind": "sft", "data": [{"prompt": "x" * 60, "response": "y" * 40}]}],
    }
    shown = overview(load_plan(plan))
    tokens = shown.estimates.stages[0].tokens
    assert (tokens.item, tokens.is_rough) == (25, True)
    assert shown.estimates.stages[0].memory is None
    assert not shown.estimates.disk_is_whole
    assert any("its configuration is not on this machine" in line for line in shown.unseen)


@given(st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1, max_size=100))
def test_means_and_longest_are_those_of_all_rows(texts: list[str]) -> None:
    lengths = lengths_of(texts, "prompts", "self_reward", byte_codec())
    assert lengths is not None
    sizes = [len(text) for text in texts]
    assert lengths.rows == len(texts)
    assert lengths.mean == pytest.approx(sum(sizes) / len(sizes))
    assert lengths.longest == lengths.longest_prompt == max(sizes)


def test_rows_of_token_ids_are_not_measured() -> None:
    assert lengths_of([(torch.arange(4), 2)], "data", "sft", byte_codec()) is None
    assert lengths_of([], "prompts", "self_reward", byte_codec()) is None


def test_a_prompt_or_rubric_that_leaves_no_room_is_a_problem_before_the_run() -> None:
    said = found({**OWN, "prompts": ["x" * 140]}).problems
    assert any("'xxx" in line and "has 140 tokens, which leaves no room" in line for line in said)
    said = found({**OWN, "judge": {"template": "y" * 130 + TEMPLATE}}).problems
    assert any("its rubric and the longest prompt take" in line for line in said)


def test_answers_as_long_as_the_context_are_warned_of() -> None:
    said = found({**OWN, "candidates": {"max_new_tokens": 128}}).warnings
    assert any("max_new_tokens 128 leaves no room for a prompt" in line for line in said)
    assert not any("max_new_tokens" in line for line in found(OWN).warnings)


@pytest.mark.parametrize("loss", ["sigmoid_norm", "simpo"])
def test_a_small_beta_with_a_loss_per_token_is_warned_of(loss: str) -> None:
    stage = {"kind": "dpo", "data": PAIRS, "loss": loss}
    assert any("log-probs per token" in line for line in found({**stage, "beta": 0.1}).warnings)
    assert not any("log-probs per token" in line for line in found({**stage, "beta": 2.0}).warnings)


def test_an_adapters_rate_is_compared_with_adapters_and_trains_a_share() -> None:
    stage = {"kind": "dpo", "data": PAIRS, "learning_rate": 2e-5, "batch_size": 16}
    full, adapted = found(stage), found(stage, adapter={"r": 2})
    assert any("learning_rate 2e-05" in line for line in full.warnings)
    assert not any("learning_rate" in line for line in adapted.warnings)
    steep = found({**stage, "learning_rate": 1e-3}, adapter={"r": 2}).warnings
    assert any("outside what was used for adapters, 1e-06 to 0.0001" in line for line in steep)
    assert (adapted.estimates.trained_parameters or 0) < (full.estimates.trained_parameters or 0)
    one, other = full.estimates.stages[0], adapted.estimates.stages[0]
    assert (other.disk.checkpoints or 0) < (one.disk.checkpoints or 0)
    assert one.memory is not None
    assert other.memory is not None
    assert other.memory.gradients < one.memory.gradients


def test_references_that_are_held_are_counted_and_stored_ones_are_not() -> None:
    held = {
        reference: found({"kind": "dpo", "data": PAIRS, **settings}).estimates.stages[0].memory
        for reference, settings in {
            "stage_start": {},
            "ema": {"reference_ema_decay": 0.99},
            "refresh": {"reference": "refresh", "reference_refresh_every": 2},
        }.items()
    }
    whole = held["stage_start"]
    assert whole is not None
    assert {name: memory.reference if memory else None for name, memory in held.items()} == {
        "stage_start": 0,
        "ema": whole.weights,
        "refresh": whole.weights,
    }
    online = {**OWN, "kind": "online", "judge": {}, "num_steps": 3}
    del online["num_pairs"]
    live = found(online).estimates.stages[0].memory
    assert live is not None
    assert (live.reference, live.is_online) == (whole.weights, True)


def test_what_does_not_fit_the_device_or_the_disk_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = found(OWN).warnings
    assert not any(line.startswith(("memory:", "disk:")) for line in fits)
    said = found(OWN).estimates
    said.device_bytes = (said.peak or 0) - 1
    said.free_disk_bytes = said.disk_bytes - 1
    assert [line.partition(":")[0] for line in said.warnings()] == ["memory", "disk"]
    monkeypatch.setattr(estimates, "free_bytes", lambda place: 10)
    assert any("disk: up to" in line and "10 B" in line for line in found(OWN).warnings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_devices_memory_is_known() -> None:
    assert (found(OWN).estimates.device_bytes or 0) > 2**30


def test_sharding_over_processes_parts_the_training_of_each_device() -> None:
    plan = load_plan(
        {"model": hugging_face(), "tokenizer": byte_codec(), "stages": [OWN], "sharding": "full"}
    )
    alone, four = (overview(plan, processes=n).estimates for n in (1, 4))
    one, parted = alone.stages[0].memory, four.stages[0].memory
    assert one is not None
    assert parted is not None
    assert four.processes == 4
    assert (parted.training or 0) < (one.training or 0)
    assert parted.sampling == one.sampling, "every process samples with the whole model"


def test_disk_is_the_most_at_once_and_less_where_fewer_checkpoints_stay() -> None:
    stages = [Disk(100, 50, samples=5, items=5), Disk(100, 80), Disk(100, 20)]
    assert disk_in_all(stages, None) == 300 + 10 + 80
    assert disk_in_all(stages, 1) == 200 + 10 + 80, "the last, and the one that is made"
    assert disk_in_all([], None) == 0


def test_more_weights_are_saved_on_the_way_where_a_plan_asks_for_them() -> None:
    """8 steps with a checkpoint every 3: after the third and the sixth, and the stage's own."""
    stage = {"kind": "dpo", "data": PAIRS, "num_steps": 8}
    plain = found(stage).estimates.stages[0].disk.checkpoints or 0
    assert found({**stage, "checkpoint_every": 3}).estimates.stages[0].disk.checkpoints == 3 * plain


def test_the_free_disk_is_told_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    free = free_bytes(tmp_path / "runs" / "deep")
    assert free is not None
    if hasattr(os, "statvfs"):
        disk = os.statvfs(tmp_path)
        assert abs(free - disk.f_bavail * disk.f_frsize) < 2**30


def test_amounts_are_short() -> None:
    assert [in_bytes(n) for n in (10, 2048, 1.5 * 2**30, 200 * 2**40)] == [
        "10 B",
        "2.0 KiB",
        "1.5 GiB",
        "200 TiB",
    ]
    assert [in_short(n) for n in (999, 1234, 12_340, 7e10)] == ["999", "1.23 k", "12.3 k", "70.0 G"]


def test_everything_shown_is_json() -> None:
    shown = found(OWN, {"kind": "sft", "data": ROWS})
    text = json.dumps([shown.estimates.as_dict(), *(each.as_dict() for each in shown.estimates.stages)])
    assert "memory_peak_bytes" in text


def test_rows_that_a_stage_could_not_read_are_problems_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "why?", "response": "so"}\n{"prompt": "why?"}\n')
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "why?", "chosen": "so"}\n')
    stages = [
        {"kind": "sft", "data": ROWS, "valid_data": str(tmp_path / "bad.jsonl")},
        {"kind": "dpo", "data": str(tmp_path / "pairs.jsonl")},
    ]
    first, second = found(*stages).problems
    assert first.startswith("stage 1 (sft): valid_data: item 1 ")
    assert second.startswith("stage 2 (dpo): data: ")
    assert "rejected" in second


def test_a_folder_of_pickles_is_a_problem_before_the_run(tmp_path: Path) -> None:
    hugging_face().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    plan = load_plan({"model": str(tmp_path), "stages": [{"kind": "sft", "data": ROWS}]})
    assert any("pytorch_model.bin" in line for line in overview(plan).problems)
