"""Thinking models: judges are shown answers, votes are read behind their reasoning, training sees all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.answers_only import AnswersOnlyJudge
from self_rewarding_lm_pytorch.judges.forcing import ScoreForcer
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.judges.llm import LLMJudge
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.reward_model import RewardModelJudge
from self_rewarding_lm_pytorch.judges.stopping import VoteStop
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair, Vote
from self_rewarding_lm_pytorch.text import UNFINISHED, Chat, HuggingFaceCodec, Reasoning
from tests.chat.families import tokenizer
from tests.helpers import Script, byte_codec, candidate, prompt
from tests.stages.worlds import QUIET, STAGES, plan

THINK = Reasoning()
CODEC = byte_codec(eos_id=0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nhm\n</think>\n\nIt is 4.", "It is 4."),
        ("It is 4.", "It is 4."),
        ("hm\n</think>\n\nIt is 4.", "It is 4."),  # begun by the template
        ("  <think>hm", None),
        ("<think></think>", ""),
        ("<think>a</think>b</think>c", "b</think>c"),
        ("Write <think> to begin.", "Write <think> to begin."),
        ("", ""),
    ],
)
def test_the_answer_is_what_stands_behind_the_reasoning(text: str, answer: str | None) -> None:
    assert THINK.answer(text) == answer


def test_reasoning_that_the_template_began_and_nothing_ended_has_no_answer() -> None:
    assert Reasoning(is_open=True).answer("It is 4.") is None


def test_whether_the_template_begins_the_reasoning_is_seen_in_the_template() -> None:
    made = HuggingFaceCodec(tokenizer("qwen3"))
    begun = made.tokenizer.chat_template.replace(
        "{{ '<|im_start|>assistant\\n' }}{% if enable",
        "{{ '<|im_start|>assistant\\n<think>\\n' }}{% if enable",
    )
    assert begun != made.tokenizer.chat_template
    chat = Chat(reasoning=Reasoning())
    assert made.with_chat(chat).reasoning == Reasoning(is_open=False)
    assert made.with_chat(Chat(template=begun, reasoning=Reasoning())).reasoning == Reasoning(is_open=True)


def test_marks_that_are_special_tokens_stay_in_the_text() -> None:
    """Decoding leaves special tokens out; without the marks the reasoning would pass for the answer."""
    made = tokenizer("qwen")
    made.add_special_tokens(
        {"additional_special_tokens": ["<think>", "</think>"]}, replace_extra_special_tokens=False
    )
    ids = made("<think>a b</think> it is", add_special_tokens=False)["input_ids"]
    assert "<think>" not in HuggingFaceCodec(made).decode(ids), "the premise"
    codec = HuggingFaceCodec(made, chat=Chat(reasoning=Reasoning()))
    assert codec.decode(ids) == "<think>a b</think> it is"


def thought(index: int, text: str) -> Candidate:
    return candidate(0, index, text)


def test_a_reward_function_is_shown_answers_and_those_without_one_have_no_score() -> None:
    seen: list[str] = []

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        seen.extend(responses)
        return [float(len(response)) for response in responses]

    shown = [
        (prompt(0), thought(0, "<think>long reasons</think>yes")),
        (prompt(0), thought(1, "<think>lost")),
    ]
    done: list[int] = []
    found = AnswersOnlyJudge(FunctionJudge(reward), CODEC, THINK).judge(
        shown, on_progress=lambda units, _: done.append(units)
    )
    assert seen == ["yes"]
    assert [judgment.score for judgment in found] == [3.0, None]
    assert found[1].reason == UNFINISHED
    assert [judgment.candidate_index for judgment in found] == [0, 1]
    assert sum(done) == 2


def test_a_reward_model_over_ids_reads_the_answers_tokens() -> None:
    read: list[list[int]] = []

    def model(ids: torch.Tensor) -> torch.Tensor:
        read.extend(ids.tolist())
        return ids.sum(dim=1).float()

    AnswersOnlyJudge(RewardModelJudge(model), CODEC, THINK).judge(
        [(prompt(0), thought(0, "<think>a</think>b"))]
    )
    assert read == [[*b"why?", *b"b", 0]]


def test_nothing_left_to_show_asks_no_judge() -> None:
    def fails(prompts: list[str], responses: list[str]) -> list[float]:
        raise AssertionError

    found = AnswersOnlyJudge(FunctionJudge(fails), CODEC, THINK).judge([(prompt(0), thought(0, "<think>"))])
    assert found[0].score is None


def votes(script: bytes, *, stop: bool = False, force: bool = False, budget: int = 60) -> tuple[Vote, ...]:
    """Of a judge that writes the script."""
    policy, parser = policy_for(Script(script)), ScoreParser()
    closing = tuple(THINK.end.encode())
    forcer = ScoreForcer(policy, CODEC, parser, temperature=1.0, closing=closing) if force else None
    judge = LLMJudge(
        PolicyGenerator(policy, CODEC.eos_ids),
        CODEC,
        JudgeTemplate("{{ prompt }}{{ response }}\x01"),
        parser,
        num_votes=1,
        sampling=Sampling(1.0, None),
        max_new_tokens=budget,
        max_prompt_tokens=None,
        seed=(0,),
        forcer=forcer,
        stop=VoteStop(CODEC, parser=parser, reasoning=THINK) if stop else None,
        reasoning=THINK,
    )
    return judge.judge([(prompt(0), candidate(0, 0))])[0].votes


def test_a_vote_is_read_behind_its_reasoning() -> None:
    (vote,) = votes(b"<think>\nScore: 5\n</think>\nFair.")
    assert (vote.score, vote.status, vote.reason) == (None, "unparsed", "no_score")
    (vote,) = votes(b"<think>\nScore: 5\n</think>\nScore: 2")
    assert vote.score == 2
    assert vote.text.startswith("<think>"), "all that was written is kept"


def test_a_vote_does_not_stop_inside_its_reasoning() -> None:
    (vote,) = votes(b"<think>\nScore: 5\n</think>\nScore: 2\nand more", stop=True)
    assert vote.text == "<think>\nScore: 5\n</think>\nScore: 2\n"
    assert (vote.score, vote.finish_reason) == (2, "stop")


def test_a_vote_that_only_reasoned_says_so_and_can_be_forced_behind_the_closed_reasoning() -> None:
    unparsed, forced = votes(b"<think>\nScore: 5\nhm hm hm", budget=20, force=True)
    assert (unparsed.status, unparsed.reason) == ("unparsed", UNFINISHED)
    assert forced.status == "forced"
    assert forced.score is not None


def test_room_for_a_forced_score_counts_the_closing_mark() -> None:
    policy, parser = policy_for(Script(b"x")), ScoreParser()
    plain, closing = (
        ScoreForcer(policy, CODEC, parser, temperature=1.0, closing=ids) for ids in ((), tuple(b"</think>"))
    )
    assert closing.num_tokens == plain.num_tokens + len("</think>")


def _thinker() -> Any:
    """Thinks `a` or `b`, then answers with a digit; some never end their thoughts."""
    script = b"<think>?</think>?"
    return Script(script, wild=b"abcdef", marker=ord("?"))


def test_a_stage_shows_answers_trains_on_all_of_it_and_counts_what_never_ended(tmp_path: Path) -> None:
    seen: list[str] = []

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        seen.extend(responses)
        return [float(ord(response[0])) for response in responses]

    settings = plan(tmp_path, model=_thinker(), tokenizer=byte_codec(), chat={"reasoning": {}})
    stage = {**STAGES["text"], "reward": reward}
    stage["candidates"] = {"num": 3, "temperature": 1.0, "max_new_tokens": 40}
    settings["stages"] = [{"name": "own", **stage}]
    summary = run(settings, reporter=QUIET)
    store = ShardStore(tmp_path / "stages" / "01-own")
    pairs, candidates = store.read_all(PreferencePair), store.read_all(Candidate)
    assert pairs
    assert set("".join(seen)) <= set("abcdef")
    assert all(pair.chosen.startswith("<think>") for pair in pairs)
    assert all(bytes(pair.chosen_ids).startswith(b"<think>") for pair in pairs)
    assert len(seen) == len(candidates)
    assert summary["stages"][0]["metrics"]["unfinished_reasoning"] == 0


def test_responses_cut_off_in_their_reasoning_are_counted(tmp_path: Path) -> None:
    settings = plan(tmp_path, model=_thinker(), tokenizer=byte_codec(), chat={"reasoning": {}})
    stage = {**STAGES["text"], "candidates": {"num": 2, "temperature": 1.0, "max_new_tokens": 9}}
    settings["stages"] = [{"name": "own", **stage}]
    with pytest.raises(Exception, match=UNFINISHED):
        run(settings, reporter=QUIET)
    judgments = ShardStore(tmp_path / "stages" / "01-own").read_all(Judgment)
    assert {judgment.reason for judgment in judgments} == {UNFINISHED}


def test_an_expected_score_cannot_be_read_inside_reasoning(tmp_path: Path) -> None:
    template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<think>{% endif %}"
    settings = plan(tmp_path, "own", chat={"template": template, "reasoning": {}})
    settings["stages"][0]["judge"] = {"mode": "expected", "template": "p {{ prompt }} r {{ response }}"}
    with pytest.raises(ConfigError, match="middle of reasoning"):
        run(settings, reporter=QUIET)
