"""A run gone on with by another plan: what is stored is taken for nothing but what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Phase, Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment
from tests.stages.resuming import DPO
from tests.stages.worlds import PROMPTS, QUIET, plan, weights


class Cut(Exception):
    pass


class Cutting(Reporter):
    """Ends the run when a phase has advanced so many times."""

    def __init__(self, place: str, after: int) -> None:
        super().__init__(quiet=True)
        self._place, self._after = place, after

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        with super().phase(label, total, unit) as phase:
            if label.startswith(self._place):
                phase.advance = self._counted  # type: ignore[method-assign]
            yield phase

    def _counted(self, count: int = 1, note: str = "") -> None:
        self._after -= 1
        if self._after <= 0:
            raise Cut


def cut(settings: dict[str, Any], place: str, after: int) -> dict[str, Any]:
    with pytest.raises(Cut):
        run(settings, reporter=Cutting(place, after))
    return settings


def worth(prompts: list[str], responses: list[str]) -> list[float]:
    """Of both, so that a response judged with another's prompt is told."""
    return [float(sum(map(ord, p + 2 * r)) % 1009) for p, r in zip(prompts, responses, strict=True)]


@pytest.mark.parametrize("change", ["generation.shard_size=3", "generation.shard_size=1"])
@pytest.mark.parametrize("place", ["shard 2: answers", "shard 2: scores", "shard 3: scores"])
def test_shards_of_another_size_are_gone_on_with_where_they_end(
    change: str, place: str, tmp_path: Path
) -> None:
    """Every prompt is visited once, and each answer is scored with its own prompt."""
    settings = plan(tmp_path, "text")
    settings["stages"][0]["reward"] = worth
    cut(settings, place, 1)
    summary = run(settings, overrides=[change], allow_changed=True, reporter=QUIET)
    assert summary["stages"][0]["yield"]["visits"] == len(PROMPTS)
    assert_own_scores(tmp_path, answers=[2] * len(PROMPTS))


@pytest.mark.parametrize("num", [3, 4])
def test_another_number_of_candidates_is_for_what_is_not_sampled_yet(num: int, tmp_path: Path) -> None:
    settings = plan(tmp_path, "text")
    settings["stages"][0]["reward"] = worth
    cut(settings, "shard 2: scores", 1)
    run(settings, overrides=[f"stages.text.candidates.num={num}"], allow_changed=True, reporter=QUIET)
    assert_own_scores(tmp_path, answers=[2, 2, 2, 2, num, num])


def assert_own_scores(folder: Path, answers: list[int]) -> None:
    store = ShardStore(folder / "stages" / "01-text")
    candidates, judgments = store.read_all(Candidate), store.read_all(Judgment)
    found: dict[int, int] = {}
    for own, judgment in zip(candidates, judgments, strict=True):
        assert (own.prompt_index, own.index) == (judgment.prompt_index, judgment.candidate_index)
        assert judgment.score == worth([PROMPTS[own.prompt_index]], [own.text])[0]
        found[own.prompt_index] = found.get(own.prompt_index, 0) + 1
    assert list(found.values()) == answers


def test_shards_of_other_visits_are_refused(tmp_path: Path) -> None:
    """The order of visits is the seed's."""
    settings = cut(plan(tmp_path, "text"), "shard 3: scores", 1)
    with pytest.raises(CheckpointError, match=r"00000\.parquet holds the answers of other visits.*remove"):
        run(settings, overrides=["seed=5"], allow_changed=True, reporter=QUIET)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_an_opponents_answers_in_shards_of_another_size_are_gone_on_with(size: int, tmp_path: Path) -> None:
    settings = cut(plan(tmp_path, "play"), "training", 1)
    assert len(list(tmp_path.rglob("iteration-1-data/candidates/*.parquet"))) == 3
    change = [f"generation.shard_size={size}"]
    summary = run(settings, overrides=change, allow_changed=True, reporter=QUIET)
    assert summary["stages"][0]["yield"]["candidates"] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.it.train.optimizer=rmsprop", "the stored optimizer is AdamW, and the training's is RMSprop"),
        ("stages.it.train.optimizer_kwargs={amsgrad: true}", "and the training's is AdamW with amsgrad"),
        ("stages.it.train.reference=refresh", "it holds .* but the training has .*'reference'"),
    ],
)
def test_a_training_is_not_gone_on_with_by_what_its_state_does_not_fit(
    change: str, message: str, tmp_path: Path
) -> None:
    settings = plan(tmp_path, stages=[{"name": "it", **DPO}], save_every_seconds=0)
    cut(settings, "training", 4)
    changes = [change, "stages.it.train.reference_refresh_every=2"] if "refresh" in change else [change]
    with pytest.raises(CheckpointError, match=f"{message}.*remove .*state/train to begin"):
        run(settings, overrides=changes, allow_changed=True, reporter=QUIET)
    for state in tmp_path.glob("stages/*/state/train/step-*"):
        state.rename(tmp_path / "aside")
    assert run(settings, overrides=changes, reporter=QUIET)["status"] == "completed"


@pytest.mark.parametrize("change", ["stages.it.train.ld_alpha=0.5", "stages.it.train.reference=initial"])
def test_log_probs_of_another_reference_are_not_used(change: str, tmp_path: Path) -> None:
    """Both sides of the loss are to be computed alike."""

    def settings(folder: Path) -> dict[str, Any]:
        stages = [{"name": "first", **DPO}, {"name": "it", **DPO}]
        return plan(folder, stages=stages)

    other = settings(tmp_path / "cut")
    run({**other, "stages": other["stages"][:1]}, reporter=QUIET)
    with pytest.raises(Cut):
        run(other, reporter=Cutting("training", 1), allow_changed=True)
    run(other, overrides=[change], allow_changed=True, reporter=QUIET)
    run(settings(tmp_path / "whole"), overrides=[change], reporter=QUIET)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
