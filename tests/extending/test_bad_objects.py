"""Own parts that are none are refused in words: most of them before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.errors import GenerationError, JudgeError
from tests.bad_input.table import Case, World, cases, check, stage

LOSSES = """
from self_rewarding_lm_pytorch.losses import PreferenceLoss
def each(logprobs, beta): return beta * (logprobs.rejected - logprobs.chosen)
def mean(logprobs, beta): return each(logprobs, beta).mean()
def detached(logprobs, beta): return each(logprobs, beta).detach()
def infinite(logprobs, beta): return each(logprobs, beta) / 0
def failing(logprobs, beta): return logprobs.choosen
def unsaid(logprobs, beta, *, gap=1.0): return each(logprobs, beta)
MEAN, DETACHED, INFINITE, FAILING, UNSAID = (PreferenceLoss(f.__name__, f) for f in
    (mean, detached, infinite, failing, unsaid))
EACH = PreferenceLoss("each", each, needs_reference=False)
"""
STAGES = """
from self_rewarding_lm_pytorch.stages.base import StageConfig
class NoRun(StageConfig):
    pass
class Own(StageConfig):
    size: int = 1
    def run(self, run): raise AssertionError
def function(run): pass
"""
JUDGES = """
from dataclasses import replace
from self_rewarding_lm_pytorch.judges.base import judgment_of
import time
class NoMethod:
    pass
class Own:
    def __init__(self, *, wait=0.0, what="none"): self.wait, self.what = wait, what
    def judge(self, shown):
        time.sleep(self.wait)
        good = [replace(judgment_of(c, ()), score=1.0) for p, c in shown]
        return {"none": good, "few": good[1:], "numbers": [1.0] * len(shown), "turned": good[::-1],
                "words": [replace(j, score="good") for j in good]}[self.what]
READY = Own()
"""
GENERATORS = """
from self_rewarding_lm_pytorch.generation.requests import Completion
class Own:
    what = "none"
    def __init__(self, policy, codec, settings): pass
    def generate(self, requests, sampling):
        one = {"none": Completion((65, 66), "length"), "empty": Completion((), "eos"),
               "far": Completion((300,), "eos"), "text": Completion(("a",), "eos"),
               "reason": Completion((65,), "tired"), "other": "answer"}[self.what]
        return [[one for _ in request.keys] for request in requests]
class Few(Own):
    def generate(self, requests, sampling): return super().generate(requests[1:], sampling)
class Empty(Own): what = "empty"
class Far(Own): what = "far"
class Text(Own): what = "text"
class Reason(Own): what = "reason"
class Other(Own): what = "other"
def nothing(policy, codec, settings): return None
def two(policy, codec): return None
"""


def loss(name: str, **more: Any) -> Any:
    return lambda world: world.plan(stage("given", loss=f"{world.file('own.py', LOSSES)}:{name}", **more))


def kind(name: str, **more: Any) -> Any:
    return lambda world: world.plan({"kind": f"{world.file('own.py', STAGES)}:{name}", "name": "own", **more})


def judge(name: str, **more: Any) -> Any:
    def made(world: World) -> dict[str, Any]:
        return world.plan(stage("own", judge={"custom": f"{world.file('own.py', JUDGES)}:{name}", **more}))

    return made


def generator(name: str, **changes: Any) -> Any:
    def made(world: World) -> dict[str, Any]:
        settings = {"shard_size": 2, "generator": f"{world.file('own.py', GENERATORS)}:{name}"}
        return world.plan(stage("text"), generation=settings, **changes)

    return made


CASES = [
    Case("a loss is not in its file", loss("EECH"), ("own.py:EECH", "Did you mean 'EACH'", "PreferenceLoss")),
    Case(
        "a loss's file is not there",
        lambda w: w.plan(stage("given", loss="no.py:X")),
        ("no file 'no.py'", "beside"),
    ),
    Case("a loss is a bare function", loss("each"), ("function", "PreferenceLoss")),
    Case("a loss gives a mean", loss("MEAN"), ("a tensor ()", "each pair's loss")),
    Case("a loss does not see the policy", loss("DETACHED"), ("cannot be trained on",)),
    Case("a loss is not finite", loss("INFINITE"), ("inf", "finite")),
    Case("a loss fails", loss("FAILING"), ("choosen", "chosen")),
    Case("a loss's option has no range", loss("UNSAID"), ("'gap'", "Annotated[float, Range(")),
    Case(
        "a loss has no such option", loss("EACH", loss_options={"gap": 1}), ("each has no options", "'gap'")
    ),
    Case(
        "a loss in a mix is a function",
        lambda w: w.plan(stage("given", loss={f"{w.file('own.py', LOSSES)}:each": 1, "nll": 1})),
        ("own.py:each", "PreferenceLoss"),
    ),
    Case("a stage is a function", kind("function"), ("function", "StageConfig")),
    Case("a stage has no run", kind("NoRun"), ("NoRun has no method run",)),
    Case("a stage's key is misspelt", kind("Own", sise=3), ("unknown key 'sise'", "did you mean 'size'")),
    Case(
        "a stage's file fails",
        lambda w: w.plan({"kind": f"{w.file('x.py', '1/0')}:A"}),
        ("ZeroDivisionError",),
    ),
    Case("a stage's kind is no name", lambda w: w.plan({"kind": 3}), ("needs a kind", "file.py:Name")),
    Case("a judge has no method", judge("NoMethod"), ("has no method judge(shown",)),
    Case(
        "a judge's option is misspelt", judge("Own", options={"weit": 1}), ("'weit'", "Did you mean 'wait'")
    ),
    Case("a judge that is made gets options", judge("READY", options={"wait": 1}), ("made already", "wait")),
    Case("a judge of one's own gets votes", judge("Own", votes=7), ("votes=7", "options")),
    Case(
        "options without a judge",
        lambda w: w.plan(stage("own", judge={"options": {"a": 1}})),
        ("options", "without custom"),
    ),
    Case(
        "a judge cannot write what the policy is trained on",
        lambda w: w.plan(stage("meta", judge={"custom": f"{w.file('own.py', JUDGES)}:Own"})),
        ("train_judge: false", "judge.custom"),
    ),
    Case(
        "a template's file is not there", judge("Own", template="no.jinja"), ("judge template", "'no.jinja'")
    ),
    Case(
        "a judge gives too few",
        judge("Own", options={"what": "few"}),
        ("5 judgments for 6",),
        JudgeError,
        late=True,
    ),
    Case(
        "a judge gives numbers",
        judge("Own", options={"what": "numbers"}),
        ("1.0", "Judgment", "reward function"),
        JudgeError,
        late=True,
    ),
    Case("a judge gives words", judge("Own", options={"what": "words"}), ("'good'",), JudgeError, late=True),
    Case(
        "a judge turns the order",
        judge("Own", options={"what": "turned"}),
        ("in the place of",),
        JudgeError,
        late=True,
    ),
    Case(
        "a judge takes too long",
        judge("Own", options={"wait": 5.0}, timeout_seconds=0.1),
        ("longer than 0.1 seconds", "to the prompt 'what of", "judge.timeout_seconds"),
        JudgeError,
        late=True,
    ),
    Case("a generator is nothing", generator("nothing"), ("None", "no method generate(requests")),
    Case("a generator takes too few", generator("two"), ("two() takes 2", "generator")),
    Case("a generator's name is wrong", generator("Owm"), ("own.py:Owm", "Did you mean 'Own'")),
    Case("a generator gives too few", generator("Few"), ("1 lists for 2",), GenerationError, late=True),
    Case("a generator gives nothing", generator("Empty"), ("0 tokens", "1 to 6"), GenerationError, late=True),
    Case(
        "a generator gives far ids",
        generator("Far", model="tests.processes.launch:factory"),
        ("token 300", "256"),
        GenerationError,
        late=True,
    ),
    Case("a generator gives text", generator("Text"), ("no whole numbers",), GenerationError, late=True),
    Case("a generator ends otherwise", generator("Reason"), ("'tired'", "eos"), GenerationError, late=True),
    Case("a generator gives answers", generator("Other"), ("no Completion",), GenerationError, late=True),
]


@cases(CASES)
def test_a_part_that_is_none_is_refused_in_words(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_a_reference_is_looked_for_beside_the_plan_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from self_rewarding_lm_pytorch.objects import beside, load_object

    (tmp_path / "plans").mkdir()
    for folder, value in ((tmp_path / "plans", 1), (tmp_path, 2)):
        (folder / "own.py").write_text(f"class Own:\n    value = {value}\n")
    monkeypatch.chdir(tmp_path)
    with beside(tmp_path / "plans"):
        assert load_object("own.py:Own.value", what="part", wanted="a number") == 1
    assert load_object("own.py:Own.value", what="part", wanted="a number") == 2
    first = load_object("own.py:Own", what="part", wanted="a class")
    assert load_object("own.py:Own", what="part", wanted="a class") is first, "one file, one class"
    (tmp_path / "own.py").write_text("class Own:\n    value = 3\n")
    assert load_object("own.py:Own.value", what="part", wanted="a number") == 3, "what is there now is run"
