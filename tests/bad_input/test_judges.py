"""Judges and rewards that give no score, one score, something else, or nothing for ever."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError, DataError, JudgeError
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.judges.time_limit import TimedOut, within
from self_rewarding_lm_pytorch.pipeline import run
from tests.bad_input.models import HERE
from tests.bad_input.table import Case, World, cases, check, stage
from tests.helpers import candidate, prompt
from tests.stages.worlds import QUIET, TEMPLATE


def rewarded(name: str, **changes: Any) -> Any:
    """Answers are scored by a function of `models.py`."""
    return lambda world: world.plan(stage("text", reward=f"{HERE}:{name}", **changes))


def by_ids(reward_model: Any) -> Any:
    return lambda world: world.plan(stage("text", reward=None, reward_model=reward_model))


def judged(**judge: Any) -> Any:
    return lambda world: world.plan(
        stage("own", num_pairs=1, judge={"template": TEMPLATE, "votes": 1, **judge})
    )


def fails(ids: Tensor) -> Tensor:
    raise RuntimeError("no such row")


def reward_file(text: str) -> Any:
    def make(world: World) -> Any:
        return world.plan(stage("text", reward=f"{world.file('mine.py', text)}:reward"))

    return make


needs_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no alarms")
NO_PAIR = "no preference pair came out of"
CASES = [
    Case(
        "a judge's text never holds a score",
        judged(unparsed="drop", max_new_tokens=4),
        (NO_PAIR, "unparsed", "12", "no score"),
        DataError,
        late=True,
    ),
    Case(
        "a reward is always the same",
        rewarded("always_one"),
        (NO_PAIR, "tie"),
        DataError,
        late=True,
    ),
    Case("every reward is NaN", rewarded("no_numbers"), (NO_PAIR, "no score"), DataError, late=True),
    Case(
        "every reward is infinite",
        rewarded("infinities"),
        (NO_PAIR, "no score"),
        DataError,
        late=True,
    ),
    Case(
        "a reward function raises",
        rewarded("raises"),
        ("raises failed", "ZeroDivisionError", "the first response was", "Mend the function"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward function gives too few numbers",
        rewarded("too_few"),
        ("gave 1 rewards for 4 responses", "one for each"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward function gives words",
        rewarded("words"),
        ("words gave '4'", "must be a number, or None"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward function gives lists",
        rewarded("lists"),
        ("[1.0, 2.0]", "must be a number, or None"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward function gives one number for all",
        rewarded("one_number"),
        ("not iterable", "Mend the function"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward function gives nothing",
        rewarded("nothing"),
        ("NoneType", "Mend the function"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward function hangs",
        rewarded("hangs", reward_timeout_seconds=0.2),
        ("hangs took longer than 0.2 seconds", "to the prompt 'what of", "raise reward_timeout_seconds"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward is no function",
        rewarded("not_a_function"),
        ("is int, not a function", "(prompts, responses)"),
    ),
    Case(
        "a reward's name is misspelt",
        rewarded("raise_"),
        (f"{HERE}:raise_", "cannot be loaded", "file.py:name"),
    ),
    Case(
        "a reward's file is not there",
        lambda world: world.plan(stage("text", reward="gone.py:f")),
        ("no file", "gone.py", "beside the plan"),
    ),
    Case(
        "a reward's file is no Python",
        reward_file("def reward(:\n"),
        ("mine.py", "SyntaxError", "file.py:name"),
    ),
    Case("a reward's file fails", reward_file("1 / 0\n"), ("mine.py", "ZeroDivisionError", "file.py:name")),
    Case(
        "a reward has no name",
        lambda world: world.plan(stage("text", reward="mine")),
        ("'mine'", "file.py:name"),
    ),
    Case(
        "a reward model fails",
        by_ids(fails),
        ("no such row", "ids of shape", "`reward`, a function over text"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward model gives a list",
        by_ids(lambda ids: [1.0]),
        ("returned list", "one number for each row"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward model gives one number for all",
        by_ids(lambda ids: torch.tensor(1.0)),
        ("into shape ()", "one number for each row"),
        JudgeError,
        late=True,
    ),
    Case(
        "a reward model gives two numbers",
        by_ids(lambda ids: torch.ones(len(ids), 2)),
        ("2 numbers for each response", "model(ids)[:, 1]"),
        ConfigError,
        late=True,
    ),
    Case(
        "a reward model is always NaN",
        by_ids(lambda ids: torch.full((len(ids),), torch.nan)),
        (NO_PAIR, "no score"),
        DataError,
        late=True,
    ),
    Case(
        "a pattern for scores is no pattern", judged(score_pattern="("), ("'('", "{{ reward }}", "Try 'Score")
    ),
    Case(
        "a template is broken",
        judged(template="{{ prompt }} {% if %}"),
        ("{{ prompt }} {% if %}", "correct that line"),
    ),
    Case(
        "a template never shows the response",
        judged(template="{{ prompt }}"),
        ("['prompt']", "Write {{ prompt }} and {{ response }}"),
    ),
    Case(
        "a template asks for what it is not given",
        judged(template="{{ prompt }}{{ response }}{{ secret }}"),
        ("'secret'", "Write {{ prompt }} and {{ response }}"),
    ),
]


@cases(CASES)
def test_a_judge_that_gives_no_score_ends_the_run_in_words_and_nothing_is_lost(
    case: Case, tmp_path: Path
) -> None:
    check(case, tmp_path)


def asked(function: Any, seconds: float | None) -> Any:
    judge = FunctionJudge(function, timeout_seconds=seconds)
    return judge.judge([(prompt(0, "why?"), candidate(0, 0, "so"))])


def test_a_function_that_hangs_in_another_thread_is_given_up_too() -> None:
    """There Python can end nothing: the thread is left behind."""
    free, errors = threading.Event(), []

    def ask() -> None:
        try:
            asked(lambda prompts, responses: free.wait(60), 0.1)
        except JudgeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(30)
    free.set()
    assert len(errors) == 1
    assert "took longer than 0.1 seconds" in errors[0]
    assert "'why?'" in errors[0]


@needs_alarm
def test_a_runaway_regular_expression_is_ended() -> None:
    with pytest.raises(JudgeError, match="took longer than"):
        asked(lambda prompts, responses: re.match(r"(a+)+$", "a" * 64 + "b"), 0.2)


@pytest.mark.parametrize("is_main", [True, False])
def test_within_its_time_a_function_gives_what_it_gives_and_raises_what_it_raises(is_main: bool) -> None:
    found: list[Any] = []

    def work() -> None:
        found.append(within(30.0, lambda: 5))
        try:
            within(30.0, lambda: 1 / 0)
        except ZeroDivisionError as error:
            found.append(str(error))

    if is_main:
        work()
    else:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [5, "division by zero"]


@needs_alarm
def test_an_alarm_of_the_callers_own_is_back_when_a_function_is_done() -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    try:
        assert within(30.0, lambda: 1) == 1
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0), "nothing is left that could ring"
        with pytest.raises(TimedOut):
            within(0.05, lambda: time.sleep(30))
        assert rang == []
        signal.raise_signal(signal.SIGALRM)
        assert rang == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_without_a_limit_a_function_may_take_its_time() -> None:
    (judgment,) = asked(lambda prompts, responses: [1.0], None)
    assert judgment.score == 1.0


def test_what_was_sampled_before_a_reward_function_failed_is_kept(tmp_path: Path) -> None:
    """Mended, the same plan goes on from the stored answers."""
    world = World(tmp_path)
    path = world.file("mine.py", "def reward(prompts, responses):\n    raise ValueError('not yet')\n")
    plan = world.plan(stage("text", reward=f"{path}:reward"))
    with pytest.raises(JudgeError, match="not yet"):
        run(plan, reporter=QUIET)
    kept = {path: path.read_bytes() for path in world.run.rglob("candidates/*.parquet")}
    assert kept, "the first shard was sampled before it was judged"
    world.file(
        "mine.py", "def reward(prompts, responses):\n    return [sum(map(ord, r)) % 7 for r in responses]\n"
    )
    assert run(plan, reporter=QUIET, allow_changed=True)["status"] == "completed"
    assert {path: path.read_bytes() for path in kept} == kept
