"""What the README shows besides what test_pages.py runs."""

import re
from pathlib import Path

import yaml

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.stages import STAGES
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_shows_the_two_commands_and_they_exist_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in ("demo", "test"):
        assert f"make {command}" in README
        assert re.search(rf"^{command}: ", makefile, re.MULTILINE)


def test_every_stage_the_readme_shows_is_one_a_plan_may_have():
    shown = yaml.safe_load(re.findall(r"^stages:\n(?:  .*\n)+", README, re.MULTILINE)[0])
    assert {stage["kind"] for stage in shown["stages"]} == set(STAGES)
    assert len(load_plan({"model": "any", **shown}).stages) == len(shown["stages"])


def test_every_judge_the_readme_shows_is_one_a_plan_may_name():
    shown = re.findall(r"^judge: .*$", README, re.MULTILINE)
    assert len(shown) >= 3
    for line in shown:
        JudgeSettings.model_validate(yaml.safe_load(line)["judge"])


def test_every_preference_training_the_readme_shows_is_one_a_plan_may_name():
    shown = re.findall(r"^train: .*$", README, re.MULTILINE)
    assert len(shown) >= 4
    for line in shown:
        PairTraining.model_validate(yaml.safe_load(line)["train"])


def test_every_file_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    missing = [link for link in links if not (ROOT / link).exists()]
    assert links and not missing
