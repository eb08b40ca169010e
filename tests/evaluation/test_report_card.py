"""A whole card: of a function, of a language model in each mode, of the demo's world."""

from __future__ import annotations

import json
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.judged import judged_prompts
from self_rewarding_lm_pytorch.demo.plan import demo_codec
from self_rewarding_lm_pytorch.demo.world import World, true_score
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.evaluation.calibration import Scale
from self_rewarding_lm_pytorch.evaluation.card_text import METRICS, compact_lines
from self_rewarding_lm_pytorch.evaluation.report_card import ReportCard, digest, report_card
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.judges.pairwise import PairwiseJudge
from self_rewarding_lm_pytorch.judges.template import PAIRWISE, JudgeTemplate
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.records import JudgedPrompt
from tests.helpers import byte_codec
from tests.stages.worlds import plain

POINTS = Scale(0, 5, True)
RATED = [JudgedPrompt(n, f"p{n}", ("a good one.", "bad"), (5.0, 1.0), True) for n in range(6)]


def by_length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def value(card: ReportCard, name: str) -> float | None:
    return card.metrics[name].value


@pytest.fixture(scope="module")
def demo() -> list[JudgedPrompt]:
    rows = [{"prompt": j.prompt, "response": j.answer, "score": j.score} for j in World(0).judged_set]
    return judged_prompts(rows)


def test_the_true_rubric_of_the_demos_world_is_a_perfect_judge_and_length_does_not_move_it(
    demo: list[JudgedPrompt],
) -> None:
    rubric = FunctionJudge(lambda prompts, texts: list(map(true_score, prompts, texts)))
    card = report_card(rubric, demo, demo_codec(), scale=POINTS)
    assert (card.num_prompts, card.num_responses) == (300, 500)
    for name in ("pairwise_accuracy", "exact_score", "exact_match", "spearman", "spearman_pooled"):
        assert value(card, name) == pytest.approx(1), name
    assert value(card, "bias") == 0 and value(card, "ece") == 0
    assert value(card, "length_spearman") is None, "at equal worth this judge says the same"
    assert value(card, "padded_raised") is not None
    assert card.metrics["padded_shift"].num == 100
    assert "parse_rate" not in card.metrics, "a function writes no votes"
    assert sum(each["num"] for each in card.histogram) == 500


def test_a_card_holds_plain_values_that_json_takes_and_never_nan() -> None:
    for function in (
        by_length,
        lambda prompts, texts: [None] * len(texts),
        lambda p, texts: [3.0] * len(texts),
    ):
        card = report_card(FunctionJudge(function), RATED, scale=POINTS)
        text = json.dumps(card.as_dict(), allow_nan=False)
        assert json.loads(text) == card.as_dict()
        assert set(card.metrics) <= set(METRICS)
        assert card.lines()


def test_what_was_not_scored_is_counted_with_its_reason() -> None:
    def some(prompts: list[str], texts: list[str]) -> list[Any]:
        return [None if text == "bad" else 4.0 for text in texts]

    card = report_card(FunctionJudge(some), RATED, scale=POINTS)
    assert value(card, "scored_share") == 0.5
    assert card.unscored == {"the reward is None": 6}
    assert value(card, "pairwise_accuracy") is None
    assert any("without a score: 6" in line for line in card.lines())


def test_one_prompt_gives_values_without_intervals() -> None:
    card = report_card(FunctionJudge(by_length), RATED[:1], scale=POINTS)
    assert value(card, "pairwise_accuracy") == 1
    assert all(metric.low is None and metric.high is None for metric in card.metrics.values())


def test_a_scale_that_is_not_known_leaves_out_what_needs_it() -> None:
    card = report_card(FunctionJudge(by_length), RATED)
    assert not {"exact_score", "bias", "mae", "ece"} & set(card.metrics)
    assert value(card, "pairwise_accuracy") == 1
    ranked = [JudgedPrompt(0, "p", ("a", "bb"), (0.0, -1.0), False)]
    assert "spearman_pooled" not in report_card(FunctionJudge(by_length), ranked, scale=POINTS).metrics


def pairwise_card(judged: list[JudgedPrompt], **options: Any) -> ReportCard:
    template = JudgeTemplate("q {{ prompt }} a {{ first }} b {{ second }}:", variables=PAIRWISE)
    judge = PairwiseJudge(policy_for(plain()), byte_codec(), template, context=None)
    return report_card(judge, judged, byte_codec(), pairwise=True, **options)


def test_a_pairwise_judges_card_speaks_of_probabilities_and_places() -> None:
    card = pairwise_card(RATED)
    assert {"brier", "ece_probability", "first_place_wins", "flip_share", "padded_shift"} <= set(card.metrics)
    assert not {"exact_score", "bias", "vote_agreement", "mean_score"} & set(card.metrics)
    assert card.metrics["brier"].num == 6
    assert card.metrics["first_place_wins"].num == 12
    assert value(card, "parse_rate") == 1
    shift = value(card, "padded_shift")
    assert shift is not None and -0.5 <= shift <= 0.5
    assert "padded_shift" not in pairwise_card(RATED, num_probes=0).metrics


def test_the_same_judge_on_the_same_data_gets_the_same_card_and_other_data_another_digest() -> None:
    first, second = (report_card(FunctionJudge(by_length), RATED, scale=POINTS) for _ in range(2))
    assert first == second
    assert first.data == digest(RATED) != digest(RATED[:5])


def test_nothing_to_judge_is_said() -> None:
    with pytest.raises(DataError, match="the judged set is empty"):
        report_card(FunctionJudge(by_length), [])


def test_a_pad_that_the_tokenizer_cannot_write_is_named(demo: list[JudgedPrompt]) -> None:
    judge = FunctionJudge(by_length)
    with pytest.raises(DataError, match="moreover"):
        report_card(judge, demo[:3], demo_codec(), pad="moreover")


def test_the_compact_table_shows_the_change_in_words() -> None:
    before = report_card(
        FunctionJudge(lambda p, texts: [5.0 - len(t) / 3 for t in texts]), RATED, scale=POINTS
    )
    after = report_card(FunctionJudge(by_length), RATED, scale=POINTS)
    lines = compact_lines(after.as_dict(), before.as_dict())
    assert any("pairwise accuracy" in line and "100.0 %" in line and "+100.0 pp" in line for line in lines)
    assert any("Spearman, mean over prompts" in line and "+2.000" in line for line in lines)


def test_a_judge_of_one_score_without_a_scale_has_a_histogram_of_it() -> None:
    card = report_card(FunctionJudge(lambda prompts, texts: [3.0] * len(texts)), RATED)
    assert [(each["score"], each["num"]) for each in card.histogram][:2] == [(3.0, 12), (3.1, 0)]
    assert value(card, "score_entropy") == 0
