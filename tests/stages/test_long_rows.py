"""Rows with more tokens than a model reads, or than a plan wants: refused or left out, and always said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.overview.lengths import lengths_of
from self_rewarding_lm_pytorch.overview.plan import overview
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from tests.helpers import byte_codec
from tests.stages.worlds import hugging_face, reward

CONTEXT = 128  # of the model, which reads bytes and an end
LONG = "x" * 200
SHORT = {"prompt": "why?", "response": "so it is"}
PAIR = {"prompt": "why?", "chosen": "so it is", "rejected": "no"}
TRAIN: dict[str, Any] = {"batch_size": 2, "learning_rate": 1e-3, "num_steps": 1, "dropout": 0.0}
KINDS: dict[str, tuple[list[dict[str, str]], list[dict[str, str]], dict[str, Any]]] = {
    "sft": ([SHORT, SHORT], [{"prompt": "why?", "response": LONG}, {"prompt": LONG, "response": "so"}], {}),
    "dpo": ([PAIR, PAIR], [{**PAIR, "rejected": LONG}, {**PAIR, "chosen": LONG}], {}),
    "spin": ([SHORT, SHORT], [{"prompt": LONG, "response": "so"}], {"opponent": {"max_new_tokens": 4}}),
}


def stage(kind: str, data: Any, **settings: Any) -> dict[str, Any]:
    return {"kind": kind, "name": "own", "data": data, **TRAIN, **KINDS[kind][2], **settings}


def sampled(prompts: list[str], **settings: Any) -> dict[str, Any]:
    return {
        "kind": "external_reward", "name": "own", "prompts": prompts, "reward": reward, **TRAIN,
        "candidates": {"num": 3, "max_new_tokens": 4}, **settings,
    }  # fmt: skip


def plan(folder: Path, *stages: dict[str, Any]) -> dict[str, Any]:
    return {"model": hugging_face(), "tokenizer": byte_codec(), "run": folder / "run", "stages": [*stages]}


def written(folder: Path, data: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, data)))
    return str(path)


@pytest.mark.parametrize("is_file", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
def test_longer_items_than_a_plan_wants_are_left_out_and_counted(
    kind: str, is_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is trained on is what the short rows alone come to."""
    short, long, _ = KINDS[kind]
    data = [long[0], *short, *long[1:]]
    given = written(tmp_path, data) if is_file else data
    made = run(plan(tmp_path, stage(kind, given, max_item_tokens=64)), reporter=Reporter())
    said = capsys.readouterr().out
    assert said.count(f"{len(long)} of {len(data)} have more than max_item_tokens 64 and are left out") == 1
    alone = run(plan(tmp_path / "alone", stage(kind, short)), reporter=Reporter(quiet=True))
    assert made["stages"][0]["checkpoint"] and made["stages"][0]["metrics"] == alone["stages"][0]["metrics"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_plan_and_train_refuse_the_same_rows_and_say_how_to_go_on(kind: str, tmp_path: Path) -> None:
    short, long, _ = KINDS[kind]
    settings = plan(tmp_path, stage(kind, written(tmp_path, [*short, long[0]])))
    (problem,) = overview(load_plan(settings)).problems
    with pytest.raises(SelfRewardingError) as refused:
        run(settings, reporter=Reporter(quiet=True))
    for said in (problem, str(refused.value)):
        assert "item 2 has 2" in said and f"max_item_tokens: {CONTEXT}" in said
    bounded = plan(tmp_path, stage(kind, written(tmp_path, [*short, long[0]]), max_item_tokens=CONTEXT))
    found = overview(load_plan(bounded))
    assert not found.problems
    (line,) = [line for line in found.read if "left out" in line]
    assert line.endswith(f"1 of 3 rows are over max_item_tokens {CONTEXT} and left out")


def test_a_long_answer_of_weight_0_at_the_end_is_no_part_of_an_item(tmp_path: Path) -> None:
    turns = [("user", "why?"), ("assistant", "so"), ("user", "and?"), ("assistant", LONG)]
    messages = [{"role": role, "content": text} for role, text in turns]
    data = written(tmp_path, [{"messages": [*messages[:3], {**messages[3], "weight": 0}]}] * 2)
    settings = plan(tmp_path, stage("sft", data))
    assert not overview(load_plan(settings)).problems
    run(settings, reporter=Reporter(quiet=True))


def test_nothing_is_trained_on_where_all_items_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(SelfRewardingError, match="data has no items"):
        run(plan(tmp_path, stage("sft", [SHORT], max_item_tokens=2)), reporter=Reporter(quiet=True))


def test_longer_prompts_than_a_plan_wants_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [LONG, "why?", "what of the sea?", "y" * 120]
    run(plan(tmp_path, sampled(prompts, max_prompt_tokens=16)), reporter=Reporter())
    said = capsys.readouterr().out
    assert "stage 'own': 2 of 4 prompts have more than max_prompt_tokens 16, left out" in said
    (kept,) = (tmp_path / "run").glob("stages/*/items/prompts.json")
    assert json.loads(kept.read_text()) == ["why?", "what of the sea?"]


def test_the_longest_prompt_is_named_where_it_takes_the_room_of_answers(tmp_path: Path) -> None:
    prompts = ["why?", "tell me of " + "y" * 115]
    found = overview(load_plan(plan(tmp_path, sampled([LONG, *prompts]))))
    assert any("('xxx" in line and "max_prompt_tokens" in line for line in found.problems)
    with pytest.raises(SelfRewardingError, match=r"longest prompt \('xxx.*has 200 tokens.*max_prompt_tokens"):
        run(plan(tmp_path, sampled([LONG, *prompts])), reporter=Reporter(quiet=True))
    with pytest.raises(SelfRewardingError, match=r"all 3 prompts have more than .*the shortest has 4: raise"):
        run(plan(tmp_path, sampled([LONG, *prompts], max_prompt_tokens=3)), reporter=Reporter(quiet=True))


def test_a_lowered_budget_names_the_prompt_that_lowers_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["why?", "tell me of " + "y" * 115]
    run(plan(tmp_path, sampled(prompts)), reporter=Reporter())
    said = capsys.readouterr().out
    assert "limited to 2 tokens instead of 4" in said and "the longest prompt ('tell me of yyy" in said


def test_pairs_with_one_answer_on_both_sides_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path, [PAIR, {**PAIR, "rejected": PAIR["chosen"]}, PAIR])
    run(plan(tmp_path, stage("dpo", data)), reporter=Reporter(quiet=True))
    assert "1 of 3 pairs have the same answer on both sides" in capsys.readouterr().out


LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=150)


@given(LENGTHS, st.integers(1, 200))
def test_the_longest_rows_are_found_wherever_they_stand(sizes: list[int], bound: int) -> None:
    """Of 1 to 150 rows, of which 64 are tokenized; the plain counts are the oracle."""
    data = [{"prompt": "p", "response": "x" * size} for size in sizes]
    tokens = [1 + size + 1 for size in sizes]
    found = lengths_of(data, "data", "sft", byte_codec())
    assert found is not None and (found.longest_item, found.longest) == (max(tokens), max(tokens))
    assert tokens[found.longest_row] == max(tokens)
    held = lengths_of(data, "data", "sft", byte_codec(), bound=bound)
    over = [size for size in tokens if size > bound]
    assert held is not None and held.left_out == min(len(over), 64)
    if len(over) < 64:
        assert held.longest_item == max((size for size in tokens if size <= bound), default=bound)


def test_a_self_players_answers_are_counted_with_the_room_that_each_prompt_leaves() -> None:
    """Ten prompts of 8 tokens and one of 120: the long one does not take the others' room."""
    short = [{"prompt": "y" * 8, "response": "so"}] * 10
    long = {"prompt": "y" * 120, "response": "so"}
    given = {"model": hugging_face(), "tokenizer": byte_codec()}
    for settings, most in (({"opponent": {"max_new_tokens": 40}}, 40), ({"max_seq_len": 100}, 100 - 18)):
        own = {"kind": "spin", "data": [*short, long], "batch_size": 2, "opponent": {}, **settings}
        tokens = overview(load_plan({**given, "stages": [own]})).estimates.stages[0].tokens
        assert tokens.candidates == pytest.approx(11 * most, rel=0.02)  # prompts are counted by characters
