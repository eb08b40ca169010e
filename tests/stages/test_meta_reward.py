"""Meta-Rewarding: answers and judgments of one policy, both trained on; what is refused; what is kept."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.demo.plan import demo_codec
from self_rewarding_lm_pytorch.demo.world import World, checks, judgment
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Phase, Reporter
from self_rewarding_lm_pytorch.records import Candidate, Judgment, PreferencePair
from self_rewarding_lm_pytorch.stages.meta_reward import MetaRewardStage
from tests.helpers import byte_codec
from tests.stages.worlds import QUIET, hugging_face, plan, rows, weights, without_seconds

ANSWER, JUDGE, META = 1, 2, 3  # bytes that end the three kinds of prompt
JUDGED = "p {{ prompt }} r {{ response }}\x02"
COMPARED = "{{ judge_prompt }} 1 {{ first }}|{{ second }}\x03"


class Roles(nn.Module):
    """Answers with two random letters, judges by a random score, and prefers the higher score of two.

    A causal function of the ids: what it does depends on the last of the bytes 1, 2 and 3, and how far
    back that is. As meta-judge it reads the digit in front of the bar and the one in front of byte 3.
    """

    def __init__(self, lean: float = 0.0) -> None:
        super().__init__()
        script = torch.zeros(2, 10, 256)
        for role, text in enumerate((b"??", b"Score: ?")):
            for place, byte in enumerate([*text, 0]):
                wild = b"abcdef" if role == 0 else b"012345"
                script[role, place, list(wild) if byte == ord("?") else byte] = 60.0
        self.script = nn.Parameter(script)
        self.lean = lean  # to the judgment shown first

    def forward(self, ids: Tensor) -> Tensor:
        columns = torch.arange(ids.shape[1]).expand_as(ids)
        last = torch.where((ids == ANSWER) | (ids == JUDGE) | (ids == META), columns, -1).cummax(dim=1).values
        role = ids.gather(1, last.clamp(min=0))
        place = (columns - last).clamp(max=9)
        logits = self.script[(role == JUDGE).long(), place] * ((role == ANSWER) | (role == JUDGE))[..., None]
        first, second = (ids.gather(1, (last - back).clamp(min=0)) - ord("0") for back in (10, 1))
        verdict = torch.zeros_like(logits)
        verdict[..., ord("A")] = first + self.lean
        verdict[..., ord("B")] = second.float()
        return logits + verdict * (role == META)[..., None]


STAGE: dict[str, Any] = {
    "name": "both",
    "kind": "meta_reward",
    "prompts": [f"what of {word}?\x01" for word in ("sun", "sea", "sky", "oak", "fox", "owl")],
    "candidates": {"num": 3, "temperature": 1.0, "top_p": None, "max_new_tokens": 6},
    "judge": {"template": JUDGED, "votes": 4, "temperature": 1.0, "top_p": None, "max_new_tokens": 12},
    "meta": {"template": COMPARED, "max_share": 1.0},
    "train": {"batch_size": 4, "epochs": 1, "learning_rate": 1e-3, "dropout": None},
}


def settings(folder: Path, model: nn.Module | None = None, **changes: Any) -> dict[str, Any]:
    stage = {**STAGE, **changes}
    return plan(folder, model=model or Roles(), tokenizer=byte_codec(), stages=[stage])


def stored(folder: Path, kind: Any) -> list[Any]:
    return ShardStore(folder / "stages" / "01-both" / "judge_pairs").read_all(kind)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run's folder and its summary; not to be changed."""
    folder = tmp_path_factory.mktemp("meta") / "run"
    return folder, run(settings(folder), reporter=QUIET)


def test_the_policy_is_trained_on_its_answers_and_on_its_judgments(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, summary = finished
    stage = summary["stages"][0]
    main = ShardStore(folder / "stages" / "01-both")
    pairs, actor = stored(folder, PreferencePair), main.read_all(PreferencePair)
    assert len(pairs) >= 4 and actor
    assert stage["num_pairs"] == len(pairs) + len(actor)
    assert stage["yield"]["pairs"] == len(actor)
    assert stage["metrics"]["judge_pairs"] == len(pairs)
    votes = {
        (j.prompt_index, j.visit, c.text): j.votes
        for j, c in zip(main.read_all(Judgment), main.read_all(Candidate), strict=True)
    }
    codec = byte_codec()
    for pair in pairs:
        prompt = STAGE["prompts"][pair.prompt_index]
        response = pair.prompt.split(" r ")[1].rstrip("\x02")
        assert pair.prompt == f"p {prompt} r {response}\x02", "what the judge was shown"
        own = {vote.text: vote.score for vote in votes[pair.prompt_index, pair.visit, response]}
        assert own[pair.chosen] == max(own.values()), "this meta-judge prefers the higher score"
        assert own[pair.rejected] == min(own.values())
        assert pair.margin is not None and pair.margin > 0
        assert pair.prompt_ids == codec.prompt_ids(pair.prompt)
        assert (pair.chosen_ids, pair.rejected_ids) == (
            codec.response_ids(pair.prompt, pair.chosen),
            codec.response_ids(pair.prompt, pair.rejected),
        )


def test_of_each_visit_the_response_of_the_most_varied_scores_is_taken(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    main = ShardStore(folder / "stages" / "01-both")
    spread: dict[tuple[int, int], dict[str, float]] = {}
    for judged, candidate in zip(main.read_all(Judgment), main.read_all(Candidate), strict=True):
        scores = [vote.score for vote in judged.votes if vote.score is not None]
        mean = sum(scores) / len(scores)
        place = spread.setdefault((judged.prompt_index, judged.visit), {})
        place.setdefault(candidate.text, sum((score - mean) ** 2 for score in scores) / len(scores))
    pairs = stored(folder, PreferencePair)
    assert pairs
    for pair in pairs:
        own = spread[pair.prompt_index, pair.visit]
        response = pair.prompt.split(" r ")[1].rstrip("\x02")
        assert own[response] == pytest.approx(max(own.values()))


def test_the_summary_counts_what_became_of_every_visit(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    metrics = summary["stages"][0]["metrics"]
    lost = (
        "undisputed",
        "repeated",
        "not_needed",
        "ties",
        "unread_responses",
        "too_long",
        "thinned",
        "pairs",
    )
    assert metrics["judge_visits"] == 6 == sum(metrics[f"judge_{name}"] for name in lost)
    judged = stored(folder, Judgment)
    orders = sum(n * (n - 1) for n in Counter(j.prompt_index for j in judged).values())
    assert metrics["judge_comparisons"] == orders == sum(len(j.votes) for j in judged) / 2
    assert metrics["judge_unread"] == 0
    assert metrics["judge_first_place_wins"] == pytest.approx(0.5)
    assert metrics["judge_higher_chosen"] == 1
    counts = json.loads((folder / "stages/01-both/judge_pairs/counts.json").read_text(encoding="utf-8"))
    assert {name: metrics[name] for name in counts} == pytest.approx(counts), "kept beside the pairs"


def test_a_leaning_to_the_first_place_is_told_and_weighed_down(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    leaning = run(settings(tmp_path, Roles(lean=3.0)), reporter=QUIET)["stages"][0]["metrics"]
    assert leaning["judge_first_place_wins"] > 0.7
    places = (finished[0], tmp_path)
    chosen = [[(p.chosen, p.rejected) for p in stored(folder, PreferencePair)] for folder in places]
    assert chosen[0] == chosen[1], "both orders were asked"


def test_answers_alone_are_trained_on_where_the_judge_is_to_stay(tmp_path: Path) -> None:
    stage = run(settings(tmp_path, train_judge=False), reporter=QUIET)["stages"][0]
    assert not (tmp_path / "stages" / "01-both" / "judge_pairs").exists()
    assert stage["num_pairs"] == stage["yield"]["pairs"] > 0
    assert not any(name.startswith("judge_") for name in stage["metrics"])


class CutOff(Reporter):
    """Ends the process, as far as the run can see, when a phase of this label begins."""

    def __init__(self, label: str) -> None:
        super().__init__(quiet=True)
        self._label = label

    @contextmanager
    def phase(self, label: str, total: int, unit: str) -> Iterator[Phase]:
        if label == self._label:
            raise KeyboardInterrupt
        with super().phase(label, total, unit) as phase:
            yield phase


@pytest.mark.parametrize("label", ["shard 2: comparisons of judgments", "training"])
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, label: str
) -> None:
    whole, summary = finished
    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path), reporter=CutOff(label))
    first = tmp_path / "stages" / "01-both" / "judge_pairs" / "judgments" / "00000.parquet"
    written = first.stat().st_mtime_ns
    assert without_seconds(run(settings(tmp_path), reporter=QUIET)) == without_seconds(summary)
    assert rows(tmp_path) == rows(whole)
    assert weights(tmp_path) == weights(whole)
    assert first.stat().st_mtime_ns == written, "what had been compared was not compared again"


def test_pairs_can_be_limited_balanced_and_kept_short(tmp_path: Path) -> None:
    limited = run(settings(tmp_path / "a", meta={"template": COMPARED, "num_pairs": 1}), reporter=QUIET)
    metrics = limited["stages"][0]["metrics"]
    assert metrics["judge_pairs"] == 1 == len(stored(tmp_path / "a", PreferencePair))
    assert metrics["judge_not_needed"] >= 1, "four responses at most are compared for one pair"
    thin = {"template": COMPARED, "max_share": 0.4}
    metrics = run(settings(tmp_path / "b", meta=thin), reporter=QUIET)["stages"][0]["metrics"]
    classes = Counter(pair.chosen for pair in stored(tmp_path / "b", PreferencePair))
    assert max(classes.values()) <= max(1, 0.4 * metrics["judge_pairs"])
    assert metrics["judge_thinned"] > 0
    short = {"template": COMPARED, "max_tokens": len("Score: 5")}
    metrics = run(settings(tmp_path / "c", meta=short), reporter=QUIET)["stages"][0]["metrics"]
    assert metrics["judge_pairs"] == 0 and metrics["judge_too_long"] > 0, "with its end it has one more"


def test_no_judge_pair_is_said_and_the_answers_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Certain(Roles):
        """A meta-judge without an opinion."""

        def forward(self, ids: Tensor) -> Tensor:
            logits = super().forward(ids)
            logits[..., [ord("A"), ord("B")]] = 0.0
            return logits

    stage = run(settings(tmp_path, Certain()), reporter=QUIET)["stages"][0]
    assert stage["metrics"]["judge_pairs"] == 0 and stage["metrics"]["judge_ties"] > 0
    assert stage["num_pairs"] == stage["yield"]["pairs"] > 0
    assert "no judge pair came out" in capsys.readouterr().out


def test_another_model_may_meta_judge(tmp_path: Path) -> None:
    """One that prefers the lower score."""

    class Contrary(Roles):
        def forward(self, ids: Tensor) -> Tensor:
            return -super().forward(ids)

    meta = {**STAGE["meta"], "model": Contrary()}
    run(settings(tmp_path, meta=meta), reporter=QUIET)
    pairs = stored(tmp_path, PreferencePair)
    assert pairs and all(pair.chosen < pair.rejected for pair in pairs)


def test_an_unsaid_setting_is_the_papers(finished: tuple[Path, dict[str, Any]]) -> None:
    stage = MetaRewardStage(prompts=["why?"], candidates={"temperature": 0.7}, judge={"template": JUDGED})
    assert (stage.candidates.num, stage.candidates.temperature, stage.candidates.top_p) == (7, 0.7, 0.95)
    assert (stage.judge.votes, stage.judge.temperature, stage.judge.top_p) == (11, 0.8, 0.95)
    train = stage.train
    assert (train.beta, train.learning_rate, train.batch_size, train.epochs) == (0.1, 5e-6, 32, 10)
    assert (stage.pairing.rho, stage.train_judge, stage.meta.max_judgments) == (0.0, True, 11)
    written = yaml.safe_load((finished[0] / "plan.yaml").read_text(encoding="utf-8"))["stages"][0]
    assert written["meta"]["template"] == COMPARED and written["pairing"]["rho"] == 0.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"judge": {"mode": "expected"}}, "judge.mode 'expected' writes none"),
        ({"judge": {"votes": 1}}, "judge.votes 1 gives a response only one"),
        ({"judge": {"model": "other"}}, "leave judge.model out"),
        ({"train": {"loss": "odpo"}}, "two scales"),
        ({"train": {"margin_weighted": True}}, "two scales"),
    ],
)
def test_what_cannot_train_a_judge_is_refused_in_words(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)train_judge .*{said}.*set train_judge: false"):
        MetaRewardStage(prompts=["why?"], **changes)
    MetaRewardStage(prompts=["why?"], train_judge=False, **changes)


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"template": "pairwise"}, "'pairwise' is neither a built-in"),
        ({"labels": ("1", "2")}, "leave labels out"),
        ({"template": "{{ prompt }} {{ first }} {{ second }}"}, "judge_prompt"),
        ({"template": COMPARED, "labels": ("A", "A")}, "tell the labels"),
    ],
)
def test_a_meta_judge_that_cannot_work_is_refused_before_anything_is_run(
    tmp_path: Path, meta: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(settings(tmp_path, meta=meta), reporter=QUIET)
    assert not (tmp_path / "stages").exists()


def test_a_context_too_small_for_any_comparison_is_refused(tmp_path: Path) -> None:
    """The built-in template alone has more bytes than the 128 positions of this Llama."""
    changes = {"judge": {**STAGE["judge"], "max_new_tokens": 12}, "meta": {}}
    with pytest.raises(ConfigError, match=r"stage 'both': to compare two judgments takes .* context is 128"):
        run(settings(tmp_path, hugging_face(), **changes), reporter=QUIET)


def test_responses_may_be_picked_with_length_control(tmp_path: Path) -> None:
    run(settings(tmp_path, pairing={"rho": 0.4}), reporter=QUIET)
    store = ShardStore(tmp_path / "stages" / "01-both")
    scores: dict[int, list[float]] = {}
    for judged in store.read_all(Judgment):
        scores.setdefault(judged.prompt_index, []).append(judged.score or 0)
    pairs = store.read_all(PreferencePair)
    assert pairs
    for pair in pairs:
        high, low = max(scores[pair.prompt_index]), min(scores[pair.prompt_index])
        assert (pair.chosen_score or 0) >= 0.6 * high + 0.4 * low - 1e-6
        assert (pair.rejected_score or 0) <= 0.6 * low + 0.4 * high + 1e-6


# The demo's world


def test_the_demos_meta_examples_are_right_in_either_place_and_fit_the_model() -> None:
    experiment = _experiment()
    world, codec = World(0), demo_codec()
    found = experiment.meta_examples(world, 200, 3)
    assert found == experiment.meta_examples(world, 200, 3) != experiment.meta_examples(world, 200, 4)
    assert max(len(codec.prompt_ids(row["prompt"])) for row in found) < 100
    assert 70 < sum(row["response"] == "1" for row in found) < 130
    about = experiment.answers(world, world.train_prompts, "test")
    for asked, better, worse in islice(experiment.comparisons(world, about, "test"), 200):
        prompt, answer = asked.removeprefix("judge task: ").removesuffix(" judge:").split(" answer: ")
        assert better == judgment(prompt, answer)
        told = worse.split(" Score: ")[0].split()
        findings = dict(zip(told[::2], told[1::2], strict=True))
        truth = checks(prompt, answer)
        assert list(findings) == list(truth)
        assert 1 <= sum((found == "yes") != truth[name] for name, found in findings.items()) <= 3
        points = [found == "yes" for found in findings.values()]
        assert worse.endswith(f"Score: {sum(points[:-2]) + (points[-2] and points[-1])}")


def _experiment() -> Any:
    folder = Path(__file__).resolve().parents[2] / "experiments"
    sys.path.insert(0, str(folder))
    _forget_common()  # the benchmarks have a module of that name, too
    try:
        spec = importlib.util.spec_from_file_location("experiments_meta_judging", folder / "meta_judging.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))
        _forget_common()


def _forget_common() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "common"]:
        del sys.modules[name]
