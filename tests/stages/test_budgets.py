"""What fits the context is settled and said before anything is sampled."""

import pytest

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.stages.budgets import Budgets, judged_budgets, response_budget


def test_a_response_gets_what_it_wants_where_it_fits() -> None:
    budget = response_budget(stage="s", wanted=56, prompt=8, context=64, max_seq_len=None)
    assert budget == Budgets(56, 0)
    assert response_budget(stage="s", wanted=500, prompt=8, context=None, max_seq_len=None).response == 500


@pytest.mark.parametrize(
    ("context", "max_seq_len", "room", "said"),
    [
        (64, None, 44, "the model's context of 64"),
        (None, 50, 30, "max_seq_len 50"),
        (64, 50, 30, "the model's context of 64 and max_seq_len 50"),
    ],
)
def test_a_response_that_does_not_fit_is_lowered_with_the_numbers(
    context: int | None, max_seq_len: int | None, room: int, said: str
) -> None:
    budget = response_budget(stage="s", wanted=256, prompt=20, context=context, max_seq_len=max_seq_len)
    assert budget.response == room
    (note,) = budget.notes
    assert f"limited to {room} tokens instead of 256" in note
    assert said in note


def test_a_prompt_that_fills_the_context_is_an_error() -> None:
    with pytest.raises(ConfigError, match="longest prompt has 64 tokens, which leaves no room"):
        response_budget(stage="s", wanted=1, prompt=64, context=64, max_seq_len=None)
    assert response_budget(stage="s", wanted=9, prompt=63, context=64, max_seq_len=None).response == 1


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, (100, 200)),
        (1000, (100, 200)),
        (410, (100, 200)),  # 100 for the rubric, 10 forced, 100 + 200
        (409, (100, 199)),  # the judgment gives first,
        (274, (100, 64)),  # down to 64,
        (273, (99, 64)),  # then the response,
        (178, (4, 64)),  # down to 4
    ],
)
def test_the_judgment_gives_room_first_then_the_response(
    context: int | None, expected: tuple[int, int]
) -> None:
    budget = judged_budgets(
        stage="s", response=Budgets(100, 0), judgment=200, judge_prompt=100, forced=10, context=context
    )
    assert (budget.response, budget.judgment) == expected
    assert bool(budget.notes) == (context is not None and context < 410)
    if context is not None:
        assert 100 + budget.response + budget.judgment + 10 <= context


def test_where_even_that_cannot_work_the_error_has_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"context is 177.*take 100, a judgment 64 and the forced score 10"):
        judged_budgets(
            stage="s", response=Budgets(100, 0), judgment=200, judge_prompt=100, forced=10, context=177
        )
    small = judged_budgets(
        stage="s", response=Budgets(2, 0), judgment=8, judge_prompt=100, forced=10, context=120
    )
    assert (small.response, small.judgment) == (2, 8), "what was asked to be small is no error"


def test_a_judge_that_writes_nothing_leaves_its_budget_to_the_response() -> None:
    budget = judged_budgets(
        stage="s", response=Budgets(100, 0), judgment=0, judge_prompt=50, forced=8, context=128
    )
    assert (budget.response, budget.judgment) == (70, 0)
    (note,) = budget.notes
    assert "responses get 70 tokens instead of 100" in note
    assert "judgments" not in note


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, 100),
        (251, 100),  # 50 for the rubric, 1 for the label, 100 twice
        (250, 99),  # what is left over from 199 helps nobody
        (249, 99),
        (59, 4),
    ],
)
def test_a_judge_of_two_responses_has_room_for_both(context: int | None, expected: int) -> None:
    budget = judged_budgets(
        stage="s",
        response=Budgets(100, 0),
        judgment=0,
        judge_prompt=50,
        forced=1,
        context=context,
        num_responses=2,
    )
    assert (budget.response, budget.judgment) == (expected, 0)
    assert [f"2 responses at once) responses get {expected} tokens" in note for note in budget.notes] == [
        True
    ] * (expected < 100)


def test_a_context_too_small_for_two_responses_is_an_error_with_the_numbers() -> None:
    said = "context is 58 tokens.*take 50.*score 1, which leaves 3 for each of 2 responses"
    with pytest.raises(ConfigError, match=said):
        judged_budgets(
            stage="s",
            response=Budgets(100, 0),
            judgment=0,
            judge_prompt=50,
            forced=1,
            context=58,
            num_responses=2,
        )
