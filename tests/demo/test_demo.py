"""The demo end to end, with few steps and few prompts: its rows, its files, and that nobody peeks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.demo import measure as measure_module
from self_rewarding_lm_pytorch.demo import world as world_module
from self_rewarding_lm_pytorch.demo.main import show_table
from self_rewarding_lm_pytorch.demo.measure import Measure
from self_rewarding_lm_pytorch.demo.plan import demo_plan
from self_rewarding_lm_pytorch.demo.world import Judged, World, true_score
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.report.build import build_report
from tests.stages.worlds import QUIET, weights, without_seconds

ROW = [
    "model",
    "true_score_mean",
    "true_score_perfect",
    "judge_spearman",
    "judge_exact",
    "win_rate_vs_previous",
    "mean_response_tokens",
]


class SmallWorld(World):
    """The same world, less of it."""

    @property
    def test_prompts(self) -> list[str]:
        return super().test_prompts[:10]

    @property
    def seed_answers(self) -> list[tuple[str, str]]:  # type: ignore[override]
        return World(self.seed).seed_answers[:60]

    @property
    def judge_labels(self) -> list[Judged]:  # type: ignore[override]
        return World(self.seed).judge_labels[:60]

    @property
    def judged_set(self) -> list[Judged]:  # type: ignore[override]
        return World(self.seed).judged_set[:12]


def small_plan(folder: Path, seed: int = 0) -> dict[str, Any]:
    """The demo's plan with the numbers lowered; so short an SFT teaches no judgments, so they are forced."""
    plan = demo_plan(SmallWorld(seed), folder)
    first, *rounds = plan["stages"]
    first |= {"num_steps": 6, "batch_size": 24, "warmup_steps": 2}
    for stage in rounds:
        stage |= {"num_prompts": 8, "replay_batch_size": 4, "epochs": 1, "warmup_steps": 0}
        stage["judge"] = {**stage["judge"], "votes": 2, "unparsed": "force", "max_new_tokens": 4}
        stage["pairing"] = {"unfinished": "keep"}
        stage["candidates"] = {**stage["candidates"], "max_new_tokens": 8}
    plan["generation"] = {"shard_size": 4}
    return plan


@pytest.fixture(scope="module")
def demo(tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo")
    evaluate = Measure(SmallWorld(0), folder)
    return folder, run(small_plan(folder), reporter=QUIET, evaluate=evaluate)


def test_every_model_is_measured_in_a_row_of_the_summary(demo: Any) -> None:
    folder, summary = demo
    assert summary == json.loads((folder / "summary.json").read_text())
    rows = summary["evaluation"]
    assert [row["model"] for row in rows] == ["M1", "M2", "M3"]
    for row in rows:
        assert list(row) == ROW
        assert 0 <= row["true_score_mean"] <= 5
        assert 0 <= row["true_score_perfect"] <= 1
        assert 1 <= row["mean_response_tokens"] <= 20
    assert rows[0]["win_rate_vs_previous"] is None
    assert all(0 <= row["win_rate_vs_previous"] <= 1 for row in rows[1:])
    assert [stage["kind"] for stage in summary["stages"]] == ["sft", "self_reward", "self_reward"]
    assert all(stage["num_pairs"] > 0 for stage in summary["stages"][1:])


def test_the_summary_is_json_even_where_the_judge_could_not_be_measured(demo: Any) -> None:
    folder, _ = demo

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for name in ("summary.json", "manifest.json", "evaluation/M1.json"):
        json.loads((folder / name).read_text(), parse_constant=refuse)


def test_the_rows_follow_from_the_samples_that_are_kept(demo: Any) -> None:
    folder, summary = demo
    kept = [json.loads((folder / "evaluation" / f"M{n}.json").read_text())["samples"] for n in (1, 2, 3)]
    prompts = [sample["prompt"] for sample in kept[0]]
    assert prompts == World(0).test_prompts[:10]
    for samples, row in zip(kept, summary["evaluation"], strict=True):
        assert [sample["prompt"] for sample in samples] == prompts
        scores = []
        for sample in samples:
            assert len(sample["responses"]) == 4
            assert sample["true_scores"] == [true_score(sample["prompt"], r) for r in sample["responses"]]
            scores += sample["true_scores"]
        assert row["true_score_mean"] == pytest.approx(sum(scores) / 40, abs=1e-4)
        assert row["true_score_perfect"] == pytest.approx(scores.count(5) / 40, abs=1e-4)
    wins = [
        (new > old) + 0.5 * (new == old)
        for one, other in zip(kept[1], kept[0], strict=True)
        for new in one["true_scores"]
        for old in other["true_scores"]
    ]
    assert summary["evaluation"][1]["win_rate_vs_previous"] == pytest.approx(sum(wins) / 160, abs=1e-4)


def test_the_win_rate_worked_out_by_hand(tmp_path: Path) -> None:
    older = {"samples": [{"true_scores": [1, 3]}, {"true_scores": [5, 5]}]}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "M1.json").write_text(json.dumps(older))
    measure = Measure(World(0), tmp_path)
    # first prompt: 2 beats 1, loses to 3; 3 beats 1, ties with 3. second: 5 ties twice, 0 loses twice
    samples = [{"true_scores": [2, 3]}, {"true_scores": [5, 0]}]
    assert measure._win_rate(2, samples) == (1 + 0 + 1 + 0.5 + 0.5 + 0.5 + 0 + 0) / 8
    assert measure._win_rate(1, samples) is None, "nothing came before the first"


def test_the_page_and_the_closing_table_show_every_model(
    demo: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = demo
    assert build_report(folder).stat().st_size > 10_000
    show_table(summary, Reporter())
    out = capsys.readouterr().out
    for row in summary["evaluation"]:
        assert f"{row['true_score_mean']:.2f}" in out
        assert row["model"] in out
    assert "nan" not in out
    assert "None" not in out


def test_the_true_rubric_only_measures(demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run without measuring, where asking for a true score is an error: the same weights."""
    plan = small_plan(tmp_path)

    def forbidden(*arguments: Any) -> Any:
        raise AssertionError("a stage looked at the true rubric")

    for module in (world_module, measure_module):
        monkeypatch.setattr(module, "true_score", forbidden)
    monkeypatch.setattr(world_module, "checks", forbidden)
    summary = run(plan, reporter=QUIET)
    folder, measured = demo
    assert weights(tmp_path) == weights(folder), "and measuring changes nothing that is trained"
    assert without_seconds(summary)["stages"] == without_seconds(measured)["stages"]


def test_the_demo_goes_on_after_a_kill_between_training_and_measuring(demo: Any, tmp_path: Path) -> None:
    _, expected = demo
    measure = Measure(SmallWorld(0), tmp_path)

    def killed(env: Any, number: int) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return measure(env, number)

    with pytest.raises(KeyboardInterrupt):
        run(small_plan(tmp_path), reporter=QUIET, evaluate=killed)
    trained = (tmp_path / "stages" / "02-M2" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    summary = run(small_plan(tmp_path), reporter=QUIET, evaluate=measure)
    assert without_seconds(summary) == without_seconds(expected)
    after = (tmp_path / "stages" / "02-M2" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert after == trained, "the stage was trained already; only its measuring was missing"


def test_the_demo_trains_on_no_prompt_it_is_measured_on(tmp_path: Path) -> None:
    world = World(1)
    plan = demo_plan(world, tmp_path)
    held_out = set(world.prompts[:800])
    rounds = []
    for stage in plan["stages"][1:]:
        rounds.append([row["prompt"] for row in read_rows(stage["prompts"])])
    assert [len(set(prompts)) for prompts in rounds] == [600, 600]
    assert not set(rounds[0]) & set(rounds[1])
    assert not held_out & {*rounds[0], *rounds[1]}
    answers, judged = (read_rows(path) for path in plan["stages"][0]["data"])
    assert (len(answers), len(judged)) == (3000, 6000)
    assert not held_out & {row["prompt"] for row in answers}
    for row in judged:
        assert row["prompt"].removeprefix("judge task: ").partition(" answer:")[0] not in held_out
