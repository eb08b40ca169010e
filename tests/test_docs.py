"""What the pages under docs/ show is what plans and commands take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from self_rewarding_lm_pytorch.cli.main import app
from self_rewarding_lm_pytorch.config import Plan, load_plan

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]
COMMANDS = [
    (page.name, line)
    for page in (*PAGES, ROOT / "README.md")
    for line in re.findall(r"^self-rewarding-lm .*", page.read_text(encoding="utf-8"), re.MULTILINE)
]
STAGE = {"kind": "self_reward", "prompts": ["why?"]}


def planned(shown: Any) -> Any:
    """A plan around what a page shows of one."""
    if isinstance(shown, list):
        return load_plan({"model": "any", "stages": shown})
    if shown.keys() & Plan.model_fields.keys():
        return load_plan({"model": "any", "stages": [STAGE], **shown})
    return load_plan({"model": "any", "stages": [{**STAGE, **shown}]})


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_every_part_of_a_plan_that_the_docs_show_is_one_a_plan_may_have(page: str, block: str) -> None:
    assert planned(yaml.safe_load(block)).stages


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_that_is_shown_has_the_options_it_is_shown_with(page: str, line: str) -> None:
    words = line.partition("#")[0].split()[1:]
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, f"{page}: {line}"


def test_every_link_between_the_docs_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            heads = (
                re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            )
            assert not anchor or anchor in {
                re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads
            }
