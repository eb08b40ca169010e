"""The judge of a self-reward stage: votes, prompts and score formats of the user's own, budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch import RewardConfig, SFTConfig, top_k
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from tests.helpers import Script, Table
from tests.published.worlds import (
    MARKER,
    ParityJudge,
    records,
    run,
    said_by_parity_judge,
    same_weights,
    self_reward,
    sft_items,
    shown_whole,
    tiny,
    trainer,
    weights,
)

STAGE = "01-self_reward"
RATING = RewardConfig(
    prompt_template="{{ prompt }}{{ response }}" + MARKER, reward_regex_template="Rating: {{ reward }}"
)


def judged(
    folder: Path, judge: Any = None, *, config: Any = None, model: Any = None, **arguments: Any
) -> Any:
    """One self-reward stage; its records and its part of the summary."""
    given = {} if config is False else {"self_reward_prompt_config": config or shown_whole()}
    done = run(model or tiny(), [self_reward(judge, **arguments)], folder, **given)
    return done.records(STAGE), done.stage


def votes_of(found: Any) -> list[Any]:
    return [vote for judgment in found.judgments for vote in judgment.votes]


@pytest.mark.parametrize("votes", [1, 2])
def test_num_sampled_reward_responses_is_the_votes_for_each_candidate(tmp_path: Path, votes: int) -> None:
    found, stage = judged(tmp_path, Script(b"Score: ?"), num_sampled_reward_responses=votes)
    assert {len(judgment.votes) for judgment in found.judgments} == {votes}
    assert stage["yield"]["votes"] == votes * len(found.candidates)


def test_three_votes_are_the_default_and_their_mean_is_the_score(tmp_path: Path) -> None:
    found, _ = judged(tmp_path, Script(b"Score: ?"))
    assert {len(judgment.votes) for judgment in found.judgments} == {3}
    for judgment in found.judgments:
        assert judgment.score == pytest.approx(sum(vote.score for vote in judgment.votes) / 3)
    assert len({vote.score for vote in votes_of(found)}) > 3


def test_the_rewarding_model_judges_and_not_the_policy(tmp_path: Path) -> None:
    found, stage = judged(tmp_path, ParityJudge())
    for candidate, judgment in zip(found.candidates, found.judgments, strict=True):
        assert judgment.score == said_by_parity_judge(candidate)
        assert {vote.text[:8] for vote in judgment.votes} == {f"Score: {judgment.score:.0f}"}
    assert stage["yield"]["votes_parsed"] == stage["yield"]["votes"]


def test_the_rewarding_model_is_not_trained(tmp_path: Path) -> None:
    judge = ParityJudge()
    judged(tmp_path, judge, trainer_kwargs={"start_learning_rate": 0.1})
    assert same_weights(judge, ParityJudge())


def test_a_judge_that_always_says_the_same_gives_ties_and_no_pair(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"parsed +96(?s:.*)no pair: tie +8"):
        judged(tmp_path, Script(b"Score: 3"))


def test_without_a_rewarding_model_the_policy_judges_itself(tmp_path: Path) -> None:
    # A bigram model that goes from any letter to the marker's answer could not write other votes.
    found, stage = judged(tmp_path, model=tiny(max_seq_len=64))
    assert stage["yield"]["votes_unparsed"] == stage["yield"]["votes"] > 0
    other = tiny(seed=1)
    kept = weights(other)
    again, _ = judged(tmp_path / "other", other)
    assert [v.text for v in votes_of(again)] != [v.text for v in votes_of(found)]
    assert torch.equal(weights(other), kept)


def test_training_on_the_judges_preferences_raises_what_it_likes(tmp_path: Path) -> None:
    def odd(model: nn.Module) -> float:
        """Probability of an odd byte after the prompt."""
        return model(torch.tensor([[97, 98]])).softmax(dim=-1)[0, -1, 1::2].sum().item()

    start = odd(tiny())
    model = tiny()
    judged(
        tmp_path, ParityJudge(), model=model, max_seq_len=3, num_generated_preference_pairs=24,
        num_train_steps=20, dropout=0.0, num_sampled_reward_responses=1,
        trainer_kwargs={"batch_size": 24, "grad_accum_steps": 1, "start_learning_rate": 0.01},
        reward_generator_kwargs={"batch_size": 24, "generate_reward_max_seq_len": 8},
    )  # fmt: skip
    assert odd(model) > start + 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {"eval_temperature": 0.0},
        {"eval_filter_fn": top_k, "eval_filter_kwargs": {"k": 1}},
        {"eval_filter_kwargs": {"thres": 1e-9}},
    ],
    ids=["temperature 0", "top-k 1", "top-p 0"],
)
def test_a_greedy_judge_gives_the_same_vote_each_time(tmp_path: Path, arguments: dict[str, Any]) -> None:
    # Five of six digits are equally likely, so only a greedy judge would repeat itself.
    with pytest.raises(DataError, match="tie"):
        judged(tmp_path, Script(b"Score: ?"), **arguments)
    found = records(tmp_path, STAGE)
    assert len({vote.score for vote in votes_of(found)}) == 1


def test_eval_temperature_and_filter_do_not_touch_the_responses(tmp_path: Path) -> None:
    usual, _ = judged(tmp_path / "usual")
    hot, _ = judged(tmp_path / "hot", eval_temperature=5.0)
    unfiltered, _ = judged(tmp_path / "unfiltered", eval_filter_fn=None)
    for other in (hot, unfiltered):
        count = min(len(usual.candidates), len(other.candidates))
        assert [c.ids for c in usual.candidates[:count]] == [c.ids for c in other.candidates[:count]]
        assert [v.text for v in votes_of(usual)] != [v.text for v in votes_of(other)]


def test_the_judgment_budget_is_the_generators(tmp_path: Path) -> None:
    kwargs = {"batch_size": 2, "generate_reward_max_seq_len": 5}
    found, _ = judged(tmp_path, reward_generator_kwargs=kwargs)
    assert {len(vote.text) for vote in votes_of(found) if vote.status == "unparsed"} == {5}


# Votes without a score


def test_an_unparsed_vote_is_followed_by_a_forced_one_and_stays_as_it_was(tmp_path: Path) -> None:
    found, stage = judged(tmp_path, num_sampled_reward_responses=2)
    for judgment in found.judgments:
        assert [(vote.index, vote.status) for vote in judgment.votes] == [
            (0, "unparsed"), (1, "unparsed"), (0, "forced"), (1, "forced"),
        ]  # fmt: skip
        assert all(vote.score is None and vote.text for vote in judgment.votes[:2])
        assert all(vote.score in range(11) and not vote.text for vote in judgment.votes[2:])
    counts = stage["yield"]
    assert counts["votes"] == counts["votes_unparsed"] == counts["votes_forced"] == 2 * len(found.candidates)
    assert counts["votes_parsed"] == 0


def test_dropped_votes_leave_nothing_and_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unparsed +96(?s:.*)forced after that +0(?s:.*)fewer than two"):
        judged(tmp_path, unparsed="drop")
    found = records(tmp_path, STAGE)
    assert {vote.status for vote in votes_of(found)} == {"unparsed"}
    assert all(judgment.score is None for judgment in found.judgments)


def test_unparsed_takes_no_other_word(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SelfRewardDPOConfig.*unparsed='skip'.*'drop' or 'force'"):
        trainer(tiny(), [self_reward(unparsed="skip")], tmp_path)


@pytest.mark.parametrize(("score_range", "values"), [(None, range(11)), ((2, 4), range(2, 5))])
def test_forced_scores_are_the_integers_of_the_range(tmp_path: Path, score_range: Any, values: range) -> None:
    config = RewardConfig(prompt_template="{{ prompt }}{{ response }}", score_range=score_range)
    found, _ = judged(tmp_path, config=config, eval_temperature=2.0)
    scores = {vote.score for vote in votes_of(found) if vote.status == "forced"}
    assert scores <= set(map(float, values))
    assert len(scores) >= min(len(values), 6)


def test_the_default_rubric_forces_0_to_5(tmp_path: Path) -> None:
    found, _ = judged(tmp_path, config=False, model=tiny(540), eval_temperature=2.0)
    assert {vote.score for vote in votes_of(found) if vote.status == "forced"} == set(map(float, range(6)))


@pytest.mark.parametrize(("after_1", "score"), [("\n", 1.0), ("0", 10.0)])
def test_forced_values_of_several_tokens_are_compared_to_their_end(
    tmp_path: Path, after_1: str, score: float
) -> None:
    """A judge that always writes 1, and then either ends the line or goes on with 0."""
    table = torch.full((256, 256), -30.0)
    table[:, ord("x")] = 0.0
    table[ord(" "), ord("1")] = table[ord("1"), ord(after_1)] = 30.0
    found, _ = judged_or_records(tmp_path, Table(table))
    assert {vote.score for vote in votes_of(found) if vote.status == "forced"} == {score}


def judged_or_records(folder: Path, judge: Any, **arguments: Any) -> tuple[Any, Any]:
    """The records also of a stage that found no pair."""
    try:
        return judged(folder, judge, **arguments)
    except DataError:
        return records(folder, STAGE), None


def test_forcing_with_nothing_but_a_parse_function_is_refused_in_words(tmp_path: Path) -> None:
    model = tiny()
    config = RewardConfig(prompt_template="{{ prompt }}{{ response }}", parse_reward=lambda text: 1.0)
    with pytest.raises(ConfigError, match=r"unparsed='force'(?s:.*)parse_reward(?s:.*)unparsed='drop'"):
        judged(tmp_path, config=config, model=model)
    assert same_weights(model, tiny())


# RewardConfig


@pytest.mark.parametrize(
    "template",
    [
        "Rate {{ prompt }}",
        "Rate {{ response }}",
        "Rate {{ prompt }} {{ response }} {{ answer }}",
        "Rate {{ prompt }",
    ],
)
def test_a_template_with_other_variables_is_refused_at_once(template: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        RewardConfig(prompt_template=template)


@pytest.mark.parametrize("pattern", ["Score: ", "{{ score }}", "({{ reward }}", "{{ reward }}/{{ reward }}"])
def test_a_pattern_that_could_never_give_a_score_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        RewardConfig(prompt_template="{{ prompt }}{{ response }}", reward_regex_template=pattern)


def test_a_config_without_anything_to_show_is_refused() -> None:
    with pytest.raises(ConfigError, match="prompt_template or a template_fn"):
        RewardConfig()


class Seen(nn.Module):
    """A judge that keeps what it is shown (its prompts end with the marker) and says `Score: ?`."""

    def __init__(self, text: bytes = b"Score: ?") -> None:
        super().__init__()
        self.script = Script(text)
        self.shown: set[str] = set()

    def forward(self, ids: Tensor) -> Tensor:
        for row in ids.tolist():
            text = "".join(map(chr, row)).rstrip("\0")
            if text.endswith(MARKER):
                self.shown.add(text)
        return self.script(ids)


def test_the_template_is_filled_and_dedented(tmp_path: Path) -> None:
    judge = Seen()
    config = RewardConfig(
        prompt_template=f"""
            Rate:
              U {{{{ prompt }}}}
            R {{{{ response }}}}{MARKER}
            """
    )
    found, _ = judged(tmp_path, judge, config=config)
    assert judge.shown
    assert judge.shown <= {f"Rate:\n  U ab\nR {c.text}{MARKER}" for c in found.candidates}


def test_auto_dedent_can_be_turned_off(tmp_path: Path) -> None:
    judge = Seen()
    template = "\n    R {{ prompt }} {{ response }}" + MARKER
    config = RewardConfig(prompt_template=template, auto_dedent=False)
    judged(tmp_path, judge, config=config)
    assert all(text.startswith("\n    R ab ") for text in judge.shown)


def test_the_response_is_data_and_no_template(tmp_path: Path) -> None:
    judge = Seen()
    config = RewardConfig(prompt_template="{{ prompt }} {{ response }}" + MARKER)
    judged(tmp_path, judge, config=config, prompt_dataset=["{{ 6 * 7 }}"], max_seq_len=14)
    assert all(text.startswith("{{ 6 * 7 }} ") for text in judge.shown)


def by_name(*, prompt: str, response: str) -> str:
    return f"P {prompt} R {response}{MARKER}"


def by_place(question: str, answer: str) -> str:
    return f"P {question} R {answer}{MARKER}"


def swapped(response: str, prompt: str) -> str:
    return f"P {prompt} R {response}{MARKER}"


def anything(**values: str) -> str:
    return f"P {values['prompt']} R {values['response']}{MARKER}"


@pytest.mark.parametrize("function", [by_name, by_place, swapped, anything])
def test_a_template_function_is_called_with_keywords_where_it_takes_them(
    tmp_path: Path, function: Any
) -> None:
    judge = Seen()
    found, _ = judged(tmp_path, judge, config=RewardConfig(template_fn=function))
    assert judge.shown
    assert judge.shown <= {f"P ab R {c.text}{MARKER}" for c in found.candidates}


@pytest.mark.parametrize("pattern", ["Rating: {{ reward }}", "\n    Rating: {{ reward }}\n    "])
def test_the_score_is_looked_for_at_the_users_pattern(tmp_path: Path, pattern: str) -> None:
    config = RewardConfig(
        prompt_template="{{ prompt }}{{ response }}" + MARKER, reward_regex_template=pattern
    )
    kwargs = {"batch_size": 2, "generate_reward_max_seq_len": 20}
    judge = Script(b"Score: 9 Rating: ?")
    found, stage = judged(tmp_path, judge, config=config, reward_generator_kwargs=kwargs)
    assert stage["yield"]["votes_parsed"] == stage["yield"]["votes"]
    assert {vote.score for vote in votes_of(found)} <= set(map(float, range(6)))


def test_the_forced_score_follows_the_users_prefix(tmp_path: Path) -> None:
    """This judge knows how `Rating: ` goes on, but does not write it on its own."""
    table = torch.full((256, 256), -30.0)
    table[:, ord("x")] = 0.0
    table[ord(" "), ord("3")] = table[ord(" "), ord("4")] = 30.0
    found, _ = judged_or_records(tmp_path, Table(table), config=RATING)
    assert {vote.score for vote in votes_of(found) if vote.status == "forced"} == {3.0, 4.0}


def test_decimals_are_scores(tmp_path: Path) -> None:
    kwargs = {"batch_size": 2, "generate_reward_max_seq_len": 10}
    found, _ = judged(tmp_path, Script(b"Score: ?.5"), reward_generator_kwargs=kwargs)
    assert {vote.score for vote in votes_of(found)} <= {n + 0.5 for n in range(6)}


@pytest.mark.parametrize(("score_range", "parsed"), [((0, 5), 0), ((0, 10), 1), (None, 1)])
def test_a_score_out_of_range_is_no_score(tmp_path: Path, score_range: Any, parsed: int) -> None:
    config = RewardConfig(prompt_template="{{ prompt }}{{ response }}" + MARKER, score_range=score_range)
    judge = Script(b"Score: ?", wild=b"789")
    found, _ = judged_or_records(tmp_path, judge, config=config, unparsed="drop")
    assert {vote.status for vote in votes_of(found)} == {"parsed" if parsed else "unparsed"}


def test_parse_reward_reads_the_score_in_place_of_the_pattern(tmp_path: Path) -> None:
    def vowels(text: str) -> float | None:
        return float(text.count("o")) if text else None

    config = RewardConfig(prompt_template="{{ prompt }}{{ response }}" + MARKER, parse_reward=vowels)
    judge = Script(b"so????", wild=b"ox")
    found, _ = judged(tmp_path, judge, config=config, unparsed="drop")
    assert all(vote.score == vote.text.count("o") for vote in votes_of(found))


def test_a_parse_function_beside_a_pattern_allows_forcing(tmp_path: Path) -> None:
    config = RewardConfig(
        prompt_template="{{ prompt }}{{ response }}",
        reward_regex_template="Rating: {{ reward }}",
        parse_reward=lambda text: None,
    )
    _, stage = judged(tmp_path, config=config)
    assert stage["yield"]["votes_forced"] == stage["yield"]["votes"]


def test_a_stage_takes_its_named_reward_config(tmp_path: Path) -> None:
    named = {"default": RATING, "score": shown_whole()}
    judge = Script(b"Score: ?")
    done = run(
        tiny(),
        [self_reward(judge, self_reward_config_keyname="score")],
        tmp_path / "a",
        self_reward_prompt_config=named,
    )
    assert done.stage["yield"]["votes_unparsed"] == 0
    done = run(tiny(), [self_reward(judge)], tmp_path / "b", self_reward_prompt_config=named)
    assert done.stage["yield"]["votes_parsed"] == 0


def test_an_unknown_config_name_lists_the_known_ones(tmp_path: Path) -> None:
    named = {"default": RATING, "score": shown_whole()}
    with pytest.raises(ConfigError, match="'scores'; known: default, score"):
        config = self_reward(self_reward_config_keyname="scores")
        trainer(tiny(), [config], tmp_path, self_reward_prompt_config=named)


# Budgets


def test_budgets_are_lowered_and_the_numbers_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Context 120: prompt 2, response 100 asked, judgment 256 -> 64, then the response.
    config = self_reward(max_seq_len=102, reward_generator_kwargs={"batch_size": 2})
    done = run(tiny(120), [config, config], tmp_path, self_reward_prompt_config=shown_whole())
    said = capsys.readouterr().out
    assert said.count("judgments 64 instead of 256") == 1
    found = done.records(STAGE)
    (response,) = {len(candidate.ids) for candidate in found.candidates}
    assert 4 <= response < 100
    assert f"responses get {response} tokens instead of 100" in said
    unparsed = {len(vote.text) for vote in votes_of(found) if vote.status == "unparsed"}
    assert unparsed == {64}
    assert not any(judgment.reason for judgment in found.judgments)


def test_where_all_fits_nothing_is_lowered_or_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kwargs = {"batch_size": 1, "generate_reward_max_seq_len": 20}
    config = self_reward(
        max_seq_len=1024, reward_generator_kwargs=kwargs, num_generated_preference_pairs=1,
        num_sampled_reward_responses=1, num_candidate_responses=2,
    )  # fmt: skip
    done = run(tiny(320), [config], tmp_path, self_reward_prompt_config=shown_whole())
    assert "instead of" not in capsys.readouterr().out
    assert {len(c.ids) for c in done.records(STAGE).candidates} == {256}


def test_a_context_too_small_for_the_rubric_is_an_error_before_any_training(tmp_path: Path) -> None:
    model = tiny(100)
    with pytest.raises(ConfigError, match="context is 100 tokens, but its rubric"):
        run(model, [SFTConfig(sft_items(4)), self_reward()], tmp_path)
    assert same_weights(model, tiny(100))
    assert not list(tmp_path.glob("stages/*")) and not list(tmp_path.glob("*.safetensors"))


def test_a_prompt_that_fills_the_context_is_an_error_before_any_training(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(ConfigError, match=r"longest prompt \('xxx.*has 64 tokens, which leaves no room"):
        config = self_reward(prompt_dataset=["x" * 64], max_seq_len=1024)
        run(model, [SFTConfig(sft_items(4)), config], tmp_path)
    assert same_weights(model, tiny())
    assert not list(tmp_path.glob("stages/*"))


def test_the_short_rubric_fits_a_small_context_and_is_ascii(tmp_path: Path) -> None:
    judge = Capture()
    judged(tmp_path, judge, config=False, model=tiny(), num_sampled_reward_responses=1)
    shown = max(judge.shown, key=len)
    assert shown.isascii()
    assert len(shown) < 470


class Capture(nn.Module):
    """A judge of a small context that keeps the longest text it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny(540)
        self.max_seq_len = 540
        self.shown: set[str] = set()

    def forward(self, ids: Tensor) -> Tensor:
        rows = ["".join(map(chr, row)) for row in ids.tolist()]
        self.shown |= {row[: row.index("<response>")] for row in rows if "<response>" in row}
        return self.net(ids)
