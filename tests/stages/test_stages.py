"""What each stage's settings do to what is sampled, paired and trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError, SelfRewardingError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.text import FunctionCodec
from tests.helpers import Successor, byte_codec
from tests.stages.worlds import (
    ITEMS,
    PAIRS,
    PROMPTS,
    QUIET,
    STAGES,
    TEMPLATE,
    RewardModel,
    hugging_face,
    plain,
    plan,
    weights,
)


def stage_of(
    folder: Path, name: str, changes: dict[str, Any], **of_plan: Any
) -> tuple[dict[str, Any], ShardStore]:
    """Runs the one stage; its part of the summary and its store."""
    settings = plan(folder, **of_plan)
    settings["stages"] = [{"name": name, **STAGES[name], **changes}]
    summary = run(settings, reporter=QUIET)
    return summary["stages"][0], ShardStore(folder / "stages" / f"01-{name}")


def test_supervised_training_raises_the_likelihood_of_the_responses_and_validates(tmp_path: Path) -> None:
    changes = {"num_steps": 30, "valid_data": ITEMS[:2], "dropout": 0.0, "log_every": 1}
    stage, _ = stage_of(tmp_path, "seed", changes)
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert stage["metrics"]["loss"] < 0.7 * float(first.partition('"loss": ')[2].partition(",")[0])
    assert 0 < stage["metrics"]["valid_loss"] < 5
    assert stage["num_pairs"] == 0


def test_preference_training_on_given_pairs_moves_the_margin_apart(tmp_path: Path) -> None:
    changes = {"epochs": 20, "dropout": 0.0, "valid_data": PAIRS[:2]}
    stage, _ = stage_of(tmp_path, "given", changes)
    assert stage["num_pairs"] == len(PAIRS)
    assert stage["metrics"]["accuracy"] == 1.0
    assert stage["metrics"]["margin"] > 0.1
    assert stage["metrics"]["valid_loss"] < 0.6931


def test_an_early_stopper_ends_training_and_brings_the_best_weights_back(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def falls_at_the_third(module: torch.nn.Module) -> float:
        seen.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        return [1.0, 2.0, 0.0, 9.0][len(seen) - 1]

    model = plain()
    changes = {"epochs": 20, "early_stop_every": 2, "early_stopper": falls_at_the_third}
    stage, _ = stage_of(tmp_path, "given", changes, model=model, tokenizer=byte_codec())
    assert stage["metrics"]["num_steps"] == 6
    assert torch.equal(seen[1], torch.cat([p.detach().flatten() for p in model.parameters()]))


def test_spin_counts_each_item_once_in_an_iteration_and_validation_not_at_all(tmp_path: Path) -> None:
    stage, _ = stage_of(tmp_path, "play", {"valid_data": ITEMS[:2]})
    found = stage["yield"]
    assert (found["prompts"], found["visits"]) == (len(ITEMS), 2 * len(ITEMS))
    assert found["pairs"] == stage["num_pairs"] == found["visits"] - sum(found["skipped"].values())
    assert "valid_loss" in stage["metrics"]


def test_an_opponent_that_answers_as_the_data_does_is_skipped_and_counted(tmp_path: Path) -> None:
    model = Successor(vocab=256)
    items = [{"prompt": "x", "response": "y"}, {"prompt": "x", "response": "q"}]
    changes = {"data": items, "num_iterations": 1, "opponent": {"temperature": 0.0, "max_new_tokens": 2}}
    codec = byte_codec(eos_id=ord("z"))
    stage, _ = stage_of(tmp_path, "play", changes, model=model, tokenizer=codec)
    assert stage["yield"]["skipped"] == {"opponent equals data set": 1}
    assert stage["num_pairs"] == 1
    with pytest.raises(SelfRewardingError, match="none of 1 items gave a pair"):
        stage_of(tmp_path / "b", "play", {**changes, "data": items[:1]}, model=model, tokenizer=codec)


def test_only_the_first_so_many_prompts_are_used(tmp_path: Path) -> None:
    stage, store = stage_of(tmp_path, "text", {"num_prompts": 3})
    assert stage["yield"]["visits"] == 3
    assert {c.prompt_index for c in store.read_all(Candidate)} == {0, 1, 2}


@pytest.mark.parametrize("name", ["own", "text"])
def test_responses_keep_to_their_budget_and_to_max_seq_len(name: str, tmp_path: Path) -> None:
    longest = max(len(prompt.encode()) for prompt in PROMPTS)
    for changes, limit in (({}, 6), ({"max_seq_len": longest + 3}, 3)):
        _, store = stage_of(tmp_path / str(limit), name, changes)
        lengths = [len(candidate.ids) for candidate in store.read_all(Candidate)]
        assert max(lengths) == limit


def test_a_small_context_lowers_the_budgets_before_training(tmp_path: Path) -> None:
    letters = FunctionCodec(  # one letter for each token, both ways
        lambda text: list(text.encode("latin-1", "replace")),
        lambda ids: bytes(ids.tolist()).decode("latin-1"),
        eos_id=0,
    )
    small = {"model": hugging_face(), "tokenizer": letters}
    judge = {"template": TEMPLATE, "votes": 1, "unparsed": "force"}
    changes = {"candidates": {"num": 2, "temperature": 1.0}, "judge": judge, "num_pairs": 1}
    _, store = stage_of(tmp_path / "a", "own", changes, **small)
    forced = len("\nScore: 5")
    longest = max(len(candidate.ids) for candidate in store.read_all(Candidate))
    assert longest == 128 - len("p what of sun? r ") - 64 - forced
    assert all(judgment.votes for judgment in store.read_all(Judgment)), "every judge prompt fitted"
    wordy = {**judge, "template": TEMPLATE + "rubric " * 30}
    with pytest.raises(ConfigError, match="judge's context is 128 tokens"):
        stage_of(tmp_path / "b", "own", {**changes, "judge": wordy}, **small)


def test_unfinished_candidates_take_no_part_where_the_plan_says_so(tmp_path: Path) -> None:
    wide = {"num": 6, "temperature": 3.0, "max_new_tokens": 60}
    changes = {"candidates": wide, "pairing": {"unfinished": "drop"}, "num_pairs": 2}
    _, store = stage_of(tmp_path, "text", changes)
    ended = {
        (c.prompt_index, c.visit, c.index) for c in store.read_all(Candidate) if c.finish_reason == "eos"
    }
    pairs = store.read_all(PreferencePair)
    assert pairs
    assert len(ended) < len(store.read_all(Candidate))
    for pair in pairs:
        place = (pair.prompt_index, pair.visit)
        assert {(*place, pair.chosen_index), (*place, pair.rejected_index)} <= ended


def test_a_forced_vote_follows_each_unparsed_one_and_a_dropped_one_leaves_no_score(tmp_path: Path) -> None:
    _, store = stage_of(tmp_path / "force", "own", {})
    for judgment in store.read_all(Judgment):
        statuses = [vote.status for vote in judgment.votes]
        assert statuses.count("forced") == statuses.count("unparsed")
        assert judgment.score is not None
        assert 0 <= judgment.score <= 5
    judge = {**STAGES["own"]["judge"], "unparsed": "drop"}
    with pytest.raises(SelfRewardingError, match="fewer than two usable candidates"):
        stage_of(tmp_path / "drop", "own", {"judge": judge})
    dropped = ShardStore(tmp_path / "drop" / "stages" / "01-own").read_all(Judgment)
    assert {judgment.score for judgment in dropped} == {None}, "absent is not zero"


def test_a_reward_model_and_a_function_of_the_same_worth_give_the_same_run(tmp_path: Path) -> None:
    model = RewardModel()
    with torch.no_grad():
        model.worth.weight[:] = 0
        model.worth.weight[ord("e")] = 1
        model.worth.weight[:, 0] += torch.arange(256) / 64

    def same(ids: torch.Tensor) -> torch.Tensor:
        return model(ids)[:, 0]

    for name, judge in (("module", model), ("function", same)):
        stage_of(tmp_path / name, "text", {"reward": None, "reward_model": judge})
    assert weights(tmp_path / "module") == weights(tmp_path / "function")


def test_both_rewards_or_none_are_refused(tmp_path: Path) -> None:
    for changes in ({"reward": None}, {"reward_model": RewardModel()}):
        with pytest.raises(ConfigError, match="needs either reward"):
            stage_of(tmp_path, "text", changes)


def test_replayed_examples_are_trained_on_beside_the_pairs(tmp_path: Path) -> None:
    changes = {"replay": ITEMS, "train": {"batch_size": 2, "learning_rate": 1e-2, "replay_batch_size": 3}}
    stage, _ = stage_of(tmp_path / "a", "text", changes)
    assert stage["metrics"]["replay_nll"] > 0
    plainly, _ = stage_of(tmp_path / "b", "text", {})
    assert "replay_nll" not in plainly["metrics"]
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_another_model_may_be_the_judge(tmp_path: Path) -> None:
    own = STAGES["own"]["judge"]
    _, ours = stage_of(tmp_path / "a", "own", {})
    _, theirs = stage_of(tmp_path / "b", "own", {"judge": {**own, "model": plain(seed=7)}})
    first = [(j.prompt_index, j.candidate_index) for j in ours.read_all(Judgment)][:6]
    assert first == [(j.prompt_index, j.candidate_index) for j in theirs.read_all(Judgment)][:6]
    assert ours.read_all(Candidate)[:6] == theirs.read_all(Candidate)[:6], "the same answers"
    assert [j.votes for j in ours.read_all(Judgment)] != [j.votes for j in theirs.read_all(Judgment)]
