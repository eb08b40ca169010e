"""The stories example does what it promises on the real small Llama: better stories, not babble."""

import math
from pathlib import Path
from statistics import fmean, stdev

import pytest

from self_rewarding_lm_pytorch import run
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.records import Prompt
from tests.examples.test_stories import EXAMPLES, STORIES, imported, openings

pytestmark = pytest.mark.slow


def test_the_external_reward_rises_while_likelihood_and_variety_stay(
    stories_folder: Path, tmp_path: Path
) -> None:
    summary = run(
        EXAMPLES / "stories.yaml", overrides=[f"model={stories_folder}", f"run={tmp_path / 'stories'}"]
    )
    original, codec = load_policy(str(stories_folder))
    assert codec is not None
    prompts = [Prompt(i, text, codec.prompt_ids(text)) for i, text in enumerate(openings("heldout.jsonl"))]
    measure = imported(STORIES / "measure.py")
    checkpoints = [tmp_path / "stories" / stage["checkpoint"] for stage in summary["stages"][1:3]]
    before, after = (measure.measured(path.parent.name, str(path), prompts, original) for path in checkpoints)
    gains = [new - old for old, new in zip(before.rewards, after.rewards, strict=True)]
    assert len(gains) == 200
    assert fmean(gains) >= 3 * stdev(gains) / math.sqrt(len(gains))
    assert after.nll - before.nll <= 0.3
    assert after.distinct_2 >= 0.9 * before.distinct_2
