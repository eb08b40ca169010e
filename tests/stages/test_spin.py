"""SPIN over iterations: whose answers are in the pairs, what they are compared with, and the presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.models.checkpoints import load_checkpoint
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Candidate, PreferencePair
from tests.helpers import byte_codec
from tests.published.test_dpo_trainer import loss_of
from tests.stages.resuming import lines as timeless_lines
from tests.stages.worlds import ITEMS, QUIET, STAGES, plain, plan, rows, weights, without_seconds
from tests.test_resume import Deadly, in_a_fork, needs_fork

N = len(ITEMS)
WHOLE = {"batch_size": 2 * N, "epochs": 3, "learning_rate": 1e-2, "dropout": 0.0, "log_every": 1}


def play(folder: Path, *, train: dict[str, Any], model: nn.Module | None = None, **changes: Any) -> Any:
    """Runs SPIN alone; its part of the summary."""
    settings = plan(folder)
    if model is not None:
        settings |= {"model": model, "tokenizer": byte_codec()}
    settings["stages"] = [{"name": "play", **STAGES["play"], **changes, "train": train}]
    return run(settings, reporter=QUIET)["stages"][0]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def answers(folder: Path, iteration: int, part: str = "data") -> list[Candidate]:
    return ShardStore(folder / "stages" / "01-play" / f"iteration-{iteration}-{part}").read_all(Candidate)


def as_items(found: list[Candidate]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(prompt + the data set's response, prompt + the opponent's answer, prompt length)"""
    made = []
    for answer in found:
        item = ITEMS[answer.prompt_index]
        prompt, response = list(item["prompt"].encode()), [*item["response"].encode(), 0]
        sides = (torch.tensor(prompt + response), torch.tensor([*prompt, *answer.ids]))
        made.append((*sides, torch.tensor(len(prompt))))
    return made


def weights_after(folder: Path, iteration: int, step: int) -> nn.Module:
    name = "steps" if iteration == 1 else f"steps-iteration-{iteration}"
    model = plain(seed=5)
    load_checkpoint(model, folder / "stages" / "01-play" / name / f"{step:06d}")
    return model.eval()


# Mixing, and the reference


def test_an_iteration_trains_on_its_own_answers_and_those_of_the_one_before(tmp_path: Path) -> None:
    stage = play(tmp_path, train={**WHOLE, "batch_size": 1, "epochs": 1}, num_iterations=3)
    steps = [line["num_steps"] for line in lines(tmp_path) if line["step"] == line["num_steps"]]
    assert steps == [N, 2 * N, 2 * N], "one pair in each step"
    assert stage["num_pairs"] == stage["yield"]["pairs"] == stage["yield"]["visits"] == 3 * N
    assert stage["yield"]["candidates"] == 3 * N, "nothing is sampled again"
    assert stage["metrics"]["mixed_pairs"] == 2 * N
    pairs = ShardStore(tmp_path / "stages" / "01-play").read_all(PreferencePair)
    assert [pair.visit for pair in pairs] == [0] * N + [1] * N + [2] * N


def test_the_loss_is_that_of_both_answers_against_the_iterate_at_the_iterations_start(tmp_path: Path) -> None:
    """Worked out from the weights saved at each step: the reference does not move, lambda is the entry's."""
    per_iteration = [{}, {"beta": 0.7}]
    play(tmp_path, train={**WHOLE, "checkpoint_every": 1}, num_iterations=3, per_iteration=per_iteration)
    logged = [line["loss"] for line in lines(tmp_path)]
    assert len(logged) == 9
    starts = [plain().eval(), weights_after(tmp_path, 1, 3), weights_after(tmp_path, 2, 3)]
    for iteration, (start, beta) in enumerate(zip(starts, (0.1, 0.7, 0.7), strict=True), 1):
        items = as_items(answers(tmp_path, iteration))
        if iteration > 1:
            items += as_items(answers(tmp_path, iteration - 1))
        for step in (1, 2, 3):
            policy = start if step == 1 else weights_after(tmp_path, iteration, step - 1)
            expected = loss_of(policy, start, items, beta)
            assert logged[3 * (iteration - 1) + step - 1] == pytest.approx(expected, abs=2e-6)
    assert len(set(logged)) > 6, "the weights moved"


def test_each_line_tells_which_of_several_iterations_it_is_of(tmp_path: Path) -> None:
    train = {**WHOLE, "batch_size": 1, "epochs": 1}
    play(tmp_path / "two", train=train, num_iterations=2)
    logged = [(line["stage"], line["iteration"], line["step"]) for line in lines(tmp_path / "two")]
    first, second = ([("01-play", n, step) for step in range(1, n * N + 1)] for n in (1, 2))
    assert logged == first + second
    play(tmp_path / "one", train=train, num_iterations=1)
    assert not any("iteration" in line for line in lines(tmp_path / "one")), "it trains once"


def test_without_mixing_an_iteration_has_its_own_answers_alone(tmp_path: Path) -> None:
    train = {**WHOLE, "batch_size": 1, "epochs": 1}
    stage = play(tmp_path, train=train, num_iterations=2, mix_previous=False)
    steps = [line["num_steps"] for line in lines(tmp_path) if line["step"] == line["num_steps"]]
    assert steps == [N, N]
    assert "mixed_pairs" not in stage["metrics"]


def test_held_out_pairs_are_those_of_the_present_opponent_alone(tmp_path: Path) -> None:
    train = {**WHOLE, "checkpoint_every": 1}
    play(tmp_path, train=train, num_iterations=2, valid_data=ITEMS[:3])
    items = as_items(answers(tmp_path, 2, "valid"))
    assert len(items) == 3
    expected = loss_of(weights_after(tmp_path, 2, 3), weights_after(tmp_path, 1, 3), items)
    assert lines(tmp_path)[-1]["valid_loss"] == pytest.approx(expected, abs=2e-6)


def test_an_answer_that_equals_the_data_set_is_left_out_of_the_next_iteration_too(tmp_path: Path) -> None:
    """A model that knows two of the three responses by heart; at a rate of 0 it stays so."""
    model = plain()
    data = [by_heart(model, b"x"), (torch.tensor([*b"x", *b"other"]), 1), by_heart(model, b"y")]
    opponent = {"temperature": 0.0, "max_new_tokens": 4}
    train = {**WHOLE, "batch_size": 1, "epochs": 1, "learning_rate": 0.0}
    stage = play(tmp_path, train=train, model=model, data=data, opponent=opponent)
    assert stage["yield"]["skipped"] == {"opponent equals data set": 4}
    assert (stage["num_pairs"], stage["metrics"]["mixed_pairs"]) == (2, 1)
    assert [line["num_steps"] for line in lines(tmp_path)] == [1, 2, 2]
    (first, second) = ShardStore(tmp_path / "stages" / "01-play").read_all(PreferencePair)
    assert first.prompt_index == second.prompt_index == 1, "the item's place in the data set"


def by_heart(model: nn.Module, prompt: bytes) -> tuple[Tensor, int]:
    """An item whose response is the model's own four likeliest tokens."""
    ids = torch.tensor([list(prompt)])
    for _ in range(4):
        ids = torch.cat((ids, model.eval()(ids)[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    return ids[0], len(prompt)


@needs_fork
@pytest.mark.parametrize(
    ("place", "after"),
    [
        ("opponent's answers, iteration 2", 3),
        ("training", 6),  # in the second iteration's training
        ("  with 6 pairs of iteration 2", 1),
    ],
)
def test_a_run_killed_in_a_later_iteration_ends_as_if_it_had_not_been(
    place: str, after: int, tmp_path: Path
) -> None:
    def settings(folder: Path) -> dict[str, Any]:
        made = plan(folder)
        changes = {"num_iterations": 3, "per_iteration": [{}, {"learning_rate": 3e-3}]}
        train = {**STAGES["play"]["train"], "log_every": 1}
        made["stages"] = [{"name": "play", **STAGES["play"], **changes, "train": train}]
        return made

    whole = run(settings(tmp_path / "whole"), reporter=QUIET)
    broken = settings(tmp_path / "broken")
    assert in_a_fork(lambda: run(broken, reporter=Deadly(place, after))), "it was to be killed"
    again = run(broken, reporter=QUIET)
    assert without_seconds(again) == without_seconds(whole)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert timeless_lines(tmp_path / "broken") == timeless_lines(tmp_path / "whole"), "each line once"


# Prompts that are too long


def test_long_prompts_are_skipped_and_counted_and_never_cut(tmp_path: Path) -> None:
    long = {"prompt": "q" * 9, "response": "never asked"}
    train = {**WHOLE, "batch_size": 1, "epochs": 1}
    stage = play(tmp_path, train=train, data=[*ITEMS, long], max_prompt_tokens=3)
    assert stage["yield"]["skipped"] == {"prompt longer than max_prompt_tokens": 2}
    assert stage["num_pairs"] == 2 * N
    assert {answer.prompt_index for answer in answers(tmp_path, 2)} == set(range(N))
    assert lines(tmp_path)[-1]["num_steps"] == 2 * N
    with pytest.raises(SelfRewardingError, match=r"none of 1 items.*longer than.*raise .*max_prompt_tokens"):
        play(tmp_path / "none", train=train, data=[long], max_prompt_tokens=8)
