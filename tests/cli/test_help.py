"""The help pages, what the shell completes, and exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from self_rewarding_lm_pytorch.cli import failures, train
from self_rewarding_lm_pytorch.cli.completion import overrides_from, plans_from, recipes_from
from self_rewarding_lm_pytorch.cli.main import app
from tests.cli.test_cli import PLAN, Command, srlm, world, write_world

__all__ = ["srlm", "world"]


def page(srlm: Command, *command: str) -> str:
    code, out, err = srlm(*command, "--help")
    assert (code, err) == (0, "")
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", out).split())


def test_the_first_page_groups_the_commands_and_tells_the_exit_codes(srlm: Command) -> None:
    said = page(srlm)
    panels = (" Start ", " Run ", " The parts alone ", " Look ", " Prepare ")
    places = [said.index(panel) for panel in panels]
    assert places == sorted(places)
    for code in ("0 done", "1 an error", "2 wrong usage", "3 stopped by an alarm", "130 and 143 interrupted"):
        assert code in said
    assert "init --recipe starter" in said
    assert srlm("-h")[0] == 0


@pytest.mark.parametrize("info", app.registered_commands, ids=lambda info: str(info.name))
def test_every_command_has_a_panel_a_line_and_a_page(info: object, srlm: Command) -> None:
    name = str(getattr(info, "name", ""))
    assert getattr(info, "rich_help_panel", None), f"{name} stands in no panel"
    line = getattr(info, "short_help", None) or str(getattr(info, "callback", None).__doc__).splitlines()[0]
    assert 10 < len(line) <= 72, f"{name}: its line in the help is {line!r}"
    assert line.endswith(".")
    assert page(srlm, name)


@pytest.mark.parametrize("command", ["demo", "init", "plan", "train", "report", "evaluate"])
def test_pages_end_with_examples(command: str, srlm: Command) -> None:
    assert f"Examples: self-rewarding-lm {command}" in page(srlm, command)


def test_recipes_plans_and_overrides_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "deep").mkdir()
    assert recipes_from("spin") == ["spin-paper", "spin-repo"]
    assert plans_from("") == ["deep/", "plan.yaml"]
    assert plans_from("p") == ["plan.yaml"]
    assert plans_from("gone/x") == []

    class Typed:
        params = {"plan": "plan.yaml"}  # noqa: RUF012  # of one test

    assert overrides_from(Typed, "stages.first.") == [  # type: ignore[arg-type]
        "stages.first.prompts=",
        "stages.first.num_pairs=",
        "stages.first.candidates.",
        "stages.first.judge.",
        "stages.first.train.",
    ]
    assert "seed=" in overrides_from(Typed, "")  # type: ignore[arg-type]
    Typed.params = {"plan": "gone.yaml"}
    assert overrides_from(Typed, "s") == ["seed=", "scale="]  # type: ignore[arg-type]


def test_the_shells_completion_answers() -> None:
    """As a shell asks: by environment variables, and without loading torch."""
    asked = {"COMP_WORDS": "self-rewarding-lm init --recipe spin", "COMP_CWORD": "3"}
    code = (
        "import sys\nsys.argv = ['self-rewarding-lm']\n"
        "from self_rewarding_lm_pytorch.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)\n"
    )
    environment = {**os.environ, **asked, "_SELF_REWARDING_LM_COMPLETE": "complete_bash"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert out.stdout.split() == ["spin-paper", "spin-repo", "False"], out.stderr


def test_an_alarm_that_stops_the_run_ends_with_three(world: Path, srlm: Command) -> None:
    (world / "reward.py").write_text("def length(prompts, responses):\n    return [1.0 for _ in responses]\n")
    plan = yaml.safe_load(PLAN)
    plan["stages"] = [{**plan["stages"][2], "shard_size": 1, "num_pairs": 200}]
    plan["alarms"] = {"tie_rate": {"threshold": 0.1, "then": "stop"}}
    (world / "ties.yaml").write_text(yaml.safe_dump(plan))
    code, out, err = srlm("train", "ties.yaml", "--json")
    assert code == 3, err
    assert "all candidates have the same score" in err
    assert '"status": "stopped"' in out
    assert "page: " in err


def test_an_error_that_nobody_expected_keeps_its_traceback_and_says_where_to_report(
    srlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("self_rewarding_lm_pytorch.config.load_plan", lambda *_: {}["no such key"])
    code, out, err = srlm("train", "plan.yaml")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert "KeyError: 'no such key'" in err
    assert err.splitlines()[-1].startswith("this error is none that we expected: please report it")


def test_no_command_line_module_imports_torch_early() -> None:
    assert "torch" not in vars(train)
    assert "torch" not in vars(failures)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "stages.third.beta=1",
            "there is no 'third' in the plan; known, by number or name: 1 (seed), 2 (first)",
        ),
        ("stages.0.beta=1", "there is no '0' in the plan; known, by number or name: 1 (seed)"),
        ("stages.4.beta=1", "there is no '4' in the plan; known"),
    ],
)
def test_an_override_of_an_unknown_stage_lists_numbers_and_names(
    override: str, said: str, world: Path, srlm: Command
) -> None:
    code, _, err = srlm("plan", "plan.yaml", "--set", override)
    assert code == 1
    assert said in err


def test_overrides_go_by_number_or_name_and_take_lists_and_mappings(world: Path, srlm: Command) -> None:
    row = {"prompt": "why?", "response": "so", "score": 3}
    (world / "judged.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    sets = [
        "stages.2.beta=0.2",
        "stages.outside.beta=0.3",
        "stages.2.judge={votes: 5, score_range: [1, 10]}",
        "stages.seed.data=[seed.jsonl, seed.jsonl]",
        "report_card.data=judged.jsonl",
    ]
    code, out, _ = srlm("plan", "plan.yaml", "--json", *(part for each in sets for part in ("--set", each)))
    shown = yaml.safe_load(out)["plan"]
    assert code == 0
    assert [stage["train"].get("beta") for stage in shown["stages"]] == [None, 0.2, 0.3]
    assert (shown["stages"][1]["judge"]["votes"], shown["stages"][1]["judge"]["score_range"]) == (
        5,
        [1.0, 10.0],
    )
    assert shown["stages"][0]["data"] == ["seed.jsonl", "seed.jsonl"]
    assert shown["report_card"]["data"] == "judged.jsonl"


def test_an_override_goes_below_what_is_null(tmp_path: Path) -> None:
    from self_rewarding_lm_pytorch.config import load_plan

    plan = {"model": "m", "stages": [{"kind": "online", "prompts": ["why?"], "judge": None}]}
    assert load_plan(plan, ["stages.1.judge.votes=2"]).stages[0].judge.votes == 2


def test_write_world_is_what_these_tests_stand_on(tmp_path: Path) -> None:
    write_world(tmp_path)
    assert (tmp_path / "tiny" / "config.json").is_file()
