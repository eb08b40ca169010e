"""Every alarm provoked in a real run: what it says, that it warns or stops, and how the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from self_rewarding_lm_pytorch.alarms import RULES, StopRun
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.report.alarms import alarm_lines
from self_rewarding_lm_pytorch.stages.alarm_log import stored_alarms
from tests.helpers import byte_codec
from tests.stages import worlds
from tests.stages.worlds import ITEMS, QUIET, plain

HERE = "tests.stages.test_alarms_in_runs"
PROMPTS = [f"what of {number}?" for number in range(33)]  # as few as all rules need to speak
SAMPLES = {"prompts": PROMPTS, "shard_size": 11}
ALL_OFF = dict.fromkeys(RULES, "off")


def _plain_with_end(logit: float) -> tuple[Any, Any]:
    module = plain()
    with torch.no_grad():
        module.out.bias[0] += logit  # of the end of sequence
    return module, byte_codec()


def endless() -> tuple[Any, Any]:
    """A model that never samples its end of sequence."""
    return _plain_with_end(-1e4)


def ending() -> tuple[Any, Any]:
    """A model that samples it early and often."""
    return _plain_with_end(4.0)


def constant(prompts: list[str], responses: list[str]) -> list[float]:
    return [3.0] * len(responses)


def mostly_constant(prompts: list[str], responses: list[str]) -> list[float]:
    """Three, but for about one response in sixteen."""
    return [4.0 if sum(map(ord, text)) % 16 == 0 else 3.0 for text in responses]


def only(**alarms: Any) -> dict[str, Any]:
    return {**ALL_OFF, **alarms}


def plan(folder: Path, name: str, alarms: dict[str, Any], *, model: str = "ending", **stage: Any) -> Any:
    entry = {"name": name, **worlds.STAGES[name], **stage}
    return {**worlds.plan(folder, alarms=alarms), "model": f"{HERE}:{model}", "stages": [entry]}


def given(folder: Path) -> list[str]:
    return [line["kind"] for line in stored_alarms(folder)]


def status(folder: Path) -> Any:
    return worlds.written_summary(folder)["status"]


STOPPED: dict[str, tuple[dict[str, Any], str]] = {
    "parse_rate": (
        {
            "name": "own",
            "num_pairs": None,
            **SAMPLES,
        },  # of random bytes no score can be read; they are forced
        r"0 of \d+ votes \(0\.0%\) hold a score",
    ),
    "tie_rate": (
        {"name": "text", "reward": f"{HERE}:mostly_constant", **SAMPLES},
        r"visits \(\d+\.\d%\) all candidates have the same score",
    ),
    "score_collapse": (
        {"name": "text", "reward": f"{HERE}:mostly_constant", **SAMPLES},
        r"of 66 scores \(\d+\.\d%\) are 3",
    ),
    "pair_yield": (
        {"name": "text", "reward": f"{HERE}:mostly_constant", **SAMPLES},
        r"pairs were found in 33 visits to prompts",
    ),
    "never_ends": (
        {"name": "text", "model": "endless", **SAMPLES},
        r"66 of 66 candidates \(100\.0%\) ran out of tokens",
    ),
    "duplicates": (
        # A codec that ends at once leaves many equal answers; a temperature near 0 leaves nothing else.
        {
            "name": "text",
            "candidates": {"num": 2, "temperature": 1e-3, "max_new_tokens": 6},
            "reward": "tests.stages.worlds:reward",
            **SAMPLES,
        },
        r"of 66 candidates \(\d+\.\d%\) equal another of the same prompt",
    ),
}
THRESHOLDS: dict[str, float] = {"tie_rate": 0.6, "score_collapse": 0.7, "pair_yield": 0.9}


@pytest.mark.parametrize("kind", STOPPED)
def test_a_provoked_alarm_stops_the_run_says_how_to_go_on_and_is_on_record(tmp_path: Path, kind: str) -> None:
    stage, said = STOPPED[kind]
    folder = tmp_path / "run"
    setting = {"then": "stop"} | ({"threshold": THRESHOLDS[kind]} if kind in THRESHOLDS else {})
    with pytest.raises(StopRun, match=rf"{said}.*--set alarms\.{kind}=off"):
        run(plan(folder, alarms=only(**{kind: setting}), **stage), reporter=QUIET)
    assert status(folder) == "stopped"
    assert given(folder) == [kind]
    assert "1 alarm:" in alarm_lines(folder)
    assert not (folder / "stages" / f"01-{stage['name']}" / "checkpoint").exists()


def test_a_run_goes_on_from_what_it_had_once_the_alarm_is_off(tmp_path: Path) -> None:
    stage, _ = STOPPED["parse_rate"]
    folder, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    with pytest.raises(StopRun):
        run(plan(folder, alarms=only(parse_rate="stop"), **stage), reporter=QUIET)
    kept = {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
    assert kept
    with pytest.raises(StopRun):  # the same command stops at the same place
        run(plan(folder, alarms=only(parse_rate="stop"), **stage), reporter=QUIET)
    stopped = plan(folder, alarms=only(parse_rate="stop"), **stage)
    summary = run(stopped, reporter=QUIET, overrides=["alarms.parse_rate=off"])
    assert summary["status"] == "completed"
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "what was stored was not made again"
    assert given(folder) == []
    run(plan(undisturbed, alarms=ALL_OFF, **stage), reporter=QUIET)
    assert worlds.weights(folder) == worlds.weights(undisturbed)


def test_a_warning_is_shown_once_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, _ = STOPPED["score_collapse"]
    alarms = only(score_collapse={"threshold": 0.7, "then": "warn"})
    summary = run(plan(tmp_path, alarms=alarms, **stage), reporter=Reporter())
    assert summary["status"] == "completed" and given(tmp_path) == ["score_collapse"]
    assert capsys.readouterr().out.count("warning: alarm score_collapse in 01-text, shard 3: ") == 1


def test_a_reward_that_is_constant_is_told_before_the_run_fails_for_want_of_pairs(tmp_path: Path) -> None:
    stage = {"name": "text", "reward": f"{HERE}:constant", **SAMPLES}
    with pytest.raises(StopRun, match=r"at 33 of 33 visits \(100\.0%\)"):
        run(plan(tmp_path, alarms=only(tie_rate="stop"), **stage), reporter=QUIET)


def test_a_model_that_ends_its_answers_gives_no_such_alarm(tmp_path: Path) -> None:
    run(plan(tmp_path, "text", only(never_ends="stop"), **SAMPLES), reporter=QUIET)
    assert given(tmp_path) == []


def test_a_learning_rate_that_makes_chosen_responses_unlikely_stops_the_run(tmp_path: Path) -> None:
    # Both sides begin alike, so what is pushed down takes the chosen side with it.
    pairs = [{"prompt": f"q{n}?", "chosen": f"yes {n} abc", "rejected": f"yes {n} abd"} for n in range(8)]
    train = {"learning_rate": 0.3, "num_steps": 12, "beta": 1.0, "dropout": 0.0, "max_grad_norm": None}
    alarms = only(chosen_logprob="stop")
    settings = plan(tmp_path, "given", alarms, data=pairs, log_every=1, **train)
    with pytest.raises(StopRun, match=r"chosen responses fell by [\d.]+ nats per token"):
        run(settings, reporter=QUIET)
    assert given(tmp_path) == ["chosen_logprob"]
    assert stored_alarms(tmp_path)[0]["unit"] == "step"


@pytest.mark.parametrize("log_every", [1, 10])
def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_its_batch(
    tmp_path: Path, log_every: int
) -> None:
    train = {"learning_rate": 1e38, "max_grad_norm": None, "num_steps": 4, "log_every": log_every}
    with pytest.raises(StopRun, match=r"the gradient of step 2 is not finite.*holds its token ids"):
        run(plan(tmp_path, "seed", ALL_OFF, **train), reporter=QUIET)
    assert given(tmp_path) == ["not_finite"] and status(tmp_path) == "stopped"
    folder = tmp_path / "stages" / "01-seed" / "not-finite"
    tensors = load_file(folder / "steps-000002.safetensors")
    saved = {bytes(ids.tolist()) for name, ids in tensors.items() if name.endswith(".ids")}
    known = {f"{item['prompt']}{item['response']}".encode() + b"\0" for item in ITEMS}
    assert len(saved) == 2 and saved < known, "of six items in batches of four, step 2 has the last two"
    facts = json.loads((folder / "steps-000002.json").read_text())
    assert facts["step"] == 2 and 8e37 < facts["learning_rate"] < 1e38, "its cosine falls"


def test_answers_that_grow_from_one_stage_to_the_next_are_told(tmp_path: Path) -> None:
    settings = plan(tmp_path, "text", only(length_growth="warn"), model="endless", **SAMPLES)
    longer = {"candidates": {"num": 2, "temperature": 1.0, "max_new_tokens": 18}}
    settings["stages"].append({**settings["stages"][0], "name": "more", **longer})
    run(settings, reporter=QUIET)
    (line,) = stored_alarms(tmp_path)
    assert (line["kind"], line["stage"], line["value"]) == ("length_growth", "02-more", 3.0)


def test_online_answers_are_watched_too(tmp_path: Path) -> None:
    changes = {"prompts": PROMPTS, "num_steps": 33, "train": {"batch_size": 1, "learning_rate": 1e-3}}
    run(plan(tmp_path, "live", only(never_ends="warn"), model="endless", **changes), reporter=QUIET)
    (line,) = stored_alarms(tmp_path)
    assert (line["kind"], line["at"]) == ("never_ends", 32), "the 64th candidate is the second of shard 32"


def test_a_guard_of_the_report_card_leaves_a_line(tmp_path: Path) -> None:
    judged = [
        {"prompt": f"q{n}?", "response": text, "score": score}
        for n in range(3)
        for text, score in (("yes", 5), ("no", 1))
    ]
    judge = {"template": worlds.TEMPLATE, "votes": 1, "unparsed": "force", "max_new_tokens": 4}
    guard = {"metric": "spearman_pooled", "min": 1.0, "max_fall": None, "then": "warn"}
    card = {"data": judged, "judge": judge, "probes": False, "guard": guard}
    for _ in range(2):  # a finished run is not run again, and nothing is doubled
        run(worlds.plan(tmp_path, "seed", report_card=card, alarms=ALL_OFF), reporter=QUIET)
        (line,) = stored_alarms(tmp_path)
        assert (line["kind"], line["stage"], line["then"]) == ("judge_agreement", "01-seed", "warn")
        assert line["value"] < line["threshold"] == 1.0


class _Cut(Exception):
    """What ends a run at some place."""


class Cut(Reporter):
    """Ends the run when something that begins so is said, or a phase so named begins."""

    def __init__(self, place: str) -> None:
        super().__init__(quiet=True)
        self._place = place

    def phase(self, label: str, total: int, unit: str) -> Any:
        if label.startswith(self._place):
            raise _Cut
        return super().phase(label, total, unit)


@pytest.mark.parametrize("place", ["shard 2: answers", "shard 3: votes", "training"])
def test_a_run_cut_off_and_gone_on_with_has_the_alarms_of_one_that_was_not(
    tmp_path: Path, place: str
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    alarms = {"chosen_logprob": 0.001, "duplicates": 0.001, "never_ends": 0.001, "score_collapse": 0.05}
    stage = {**STOPPED["parse_rate"][0], "train": {"batch_size": 4, "learning_rate": 0.1, "log_every": 1}}
    run(plan(whole, alarms=alarms, **stage), reporter=QUIET)
    with pytest.raises(_Cut):
        run(plan(cut, alarms=alarms, **stage), reporter=Cut(place))
    run(plan(cut, alarms=alarms, **stage), reporter=QUIET)
    assert len(given(whole)) >= 3 and "parse_rate" in given(whole)
    assert (cut / "alarms.jsonl").read_bytes() == (whole / "alarms.jsonl").read_bytes()
    watched = Path("stages") / "01-own" / "watched.json"
    assert (cut / watched).read_bytes() == (whole / watched).read_bytes()
    assert worlds.weights(cut) == worlds.weights(whole)


def test_alarms_change_no_result(tmp_path: Path) -> None:
    with_all, without = tmp_path / "with", tmp_path / "without"
    everything = {kind: rule.lowest if not rule.is_floor else rule.highest for kind, rule in RULES.items()}
    stage = STOPPED["parse_rate"][0]
    watched = run(plan(with_all, alarms=everything, **stage), reporter=QUIET)
    bare = run(plan(without, alarms=ALL_OFF, **stage), reporter=QUIET)
    assert len(given(with_all)) >= 4 and given(without) == []
    assert worlds.weights(with_all) == worlds.weights(without)
    assert worlds.rows(with_all) == worlds.rows(without)
    assert worlds.without_seconds(watched) == worlds.without_seconds(bare)


def test_fresh_takes_the_alarms_of_the_run_before_away(tmp_path: Path) -> None:
    stage, _ = STOPPED["parse_rate"]
    run(plan(tmp_path, alarms=only(parse_rate="warn"), **stage), reporter=QUIET)
    assert given(tmp_path) == ["parse_rate"]
    run(plan(tmp_path, "seed", ALL_OFF), reporter=QUIET, fresh=True)
    assert not (tmp_path / "alarms.jsonl").exists()
