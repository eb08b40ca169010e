"""Everything the README shows is run, as it stands but for the model that would have to be downloaded."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.stages import STAGES
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
OFFLINE = [block for block in PYTHON_BLOCKS if "Qwen/" not in block]


@pytest.mark.parametrize("block", OFFLINE, ids=range(len(OFFLINE)))
def test_each_python_example_of_the_readme_runs_to_its_end(block, tmp_path):
    result = _python(block, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


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


def test_the_readme_names_only_commands_that_the_command_line_has():
    named = set(re.findall(r"^self-rewarding-lm (\w+)", README, re.MULTILINE))
    assert named
    for command in named:
        result = _python(
            f"import sys; sys.argv = ['self-rewarding-lm', '{command}', '--help']\n"
            "from self_rewarding_lm_pytorch.cli.main import main; main()",
            ROOT,
        )
        assert result.returncode == 0, result.stderr[-2000:]


def _python(code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
