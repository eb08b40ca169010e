"""generate, judge, pairs, inspect and chat as a user types them."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.cli import main as cli
from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.pipeline import run
from tests.parts.worlds import CHATML, QUIET, rows_of, write_model, write_world
from tests.servers import Asked, Reply, chat, serving

Command = Callable[..., tuple[int, str, str]]
FEW = ("--num", "3", "--max-new-tokens", "5", "--temperature", "1.0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    write_model(folder / "chatty", template=CHATML)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def world(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def srlm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(*arguments: str, says: str = "") -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(says))
        monkeypatch.setattr(sys, "argv", ["self-rewarding-lm", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return command


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("generate", ["MODEL", "PROMPTS", "--out", "--num", "--min-p", "--ids", "RUN:STAGE", "goes on"]),
        ("judge", ["CANDIDATES", "--votes", "--score-range", "--server", "--reward-model", "--set"]),
        ("pairs", ["JUDGMENTS", "--pick", "--min-margin", "--rho", "TRL"]),
        ("inspect", ["MODEL", "DATA", "--row", "--kind", "--no-colour", "brackets"]),
        ("chat", ["MODEL", "--system", "/judge", "/reset", "/quit"]),
    ],
)
def test_every_command_explains_itself(command: str, words: list[str], srlm: Command) -> None:
    code, out, _ = srlm(command, "--help")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert code == 0
    assert not [word for word in words if word not in plain], plain


def test_from_prompts_to_pairs_that_a_dpo_stage_trains_on(world: Path, srlm: Command, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.jsonl") for name in ("candidates", "judgments", "pairs")]
    code, out, err = srlm("generate", "tiny", "prompts.txt", "--out", files[0], *FEW)
    assert (code, err) == (0, "")
    assert "18 candidates of 6 prompts" in out
    code, out, _ = srlm("judge", files[0], "--out", files[1], "--reward", "reward.py:variety")
    assert code == 0
    assert re.search(r"responses +18\n", out)
    assert "mean score" in out
    code, out, _ = srlm("pairs", files[1], "--out", files[2])
    assert code == 0
    rows = rows_of(Path(files[2]))
    assert re.search(rf"pairs +{len(rows)}\n", out)
    assert all(row["chosen_score"] > row["rejected_score"] for row in rows)
    stage = {"name": "given", "kind": "dpo", "data": files[2], "num_steps": 1, "batch_size": 2}
    plan = {"model": str(world / "tiny"), "run": tmp_path / "run", "stages": [stage]}
    assert run(load_plan(plan), reporter=QUIET)["stages"][0]["num_pairs"] == len(rows)


def test_json_is_the_summary_alone(world: Path, srlm: Command, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.parquet") for name in ("c", "j", "p")]
    found = []
    for arguments in (
        ("generate", "tiny", "prompts.txt", "--out", files[0], *FEW),
        ("judge", "tiny", files[0], "--out", files[1], "--mode", "expected"),
        ("pairs", files[1], "--out", files[2]),
    ):
        code, out, _ = srlm(*arguments, "--json")
        assert code == 0
        found.append(json.loads(out))
    assert [each["command"] for each in found] == ["generate", "judge", "pairs"]
    assert found[0]["candidates"] == found[1]["responses"] == found[2]["yield"]["candidates"] == 18
    assert found[1]["votes"] == {"expected": 18}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "tiny", "gone.txt", "--out", "x.jsonl"), "no data file 'gone.txt'"),
        (("generate", "./gone", "prompts.txt", "--out", "x.jsonl"), "model './gone' cannot be loaded"),
        (("generate", "tiny", "prompts.txt", "--out", "x.csv"), "must end in .jsonl"),
        (("generate", "tiny", "prompts.txt", "--out", "x.jsonl", "--stage", "first"), "must be NUMBER:NAME"),
        (
            ("generate", "tiny", "prompts.txt", "--out", "x.jsonl", "--top-k", "2", "--min-p", "0.1"),
            "top_k and min_p are both given; choose one filter",
        ),
        (("generate", "tiny", "prompts.txt", "--out", "x.jsonl", "--top-p", "2"), "--top-p 2"),
        (("generate", "empty", "prompts.txt", "--out", "x.jsonl"), "holds no model"),
        (("judge", "seed.jsonl", "--out", "x.jsonl"), "who judges must be said once, but nobody"),
        (
            ("judge", "tiny", "seed.jsonl", "--out", "x.jsonl", "--reward", "r.py:f"),
            "model and reward is named",
        ),
        (("judge", "seed.jsonl", "--out", "x.jsonl", "--reward", "reward.py:gone"), "gone"),
        (
            ("judge", "seed.jsonl", "--out", "x.jsonl", "--reward", "reward.py:variety", "--votes", "2"),
            "votes: ",
        ),
        (("judge", "tiny", "seed.jsonl", "--out", "x.jsonl", "--template", "nice"), "neither a built-in"),
        (("judge", "tiny", "seed.jsonl", "--out", "x.jsonl", "--set", "vots=2"), "--vots 2: Extra inputs"),
        (("judge", "seed.jsonl", "--out", "x.jsonl", "--server", "http://h/v1"), "--server-model NAME"),
        (("judge", "tiny", "prompts.txt", "--out", "x.jsonl"), "prompts.txt"),
        (("pairs", "seed.jsonl", "--out", "x.jsonl"), "has no score"),
        (("pairs", "seed.jsonl", "--out", "x.jsonl", "--rho", "0.5"), "--rho 0.5"),
        (("pairs", "seed.jsonl", "--out", "x.jsonl", "--pick", "reward.py:gone"), "--pick 'reward.py:gone'"),
        (("inspect", "tiny", "seed.jsonl", "--row", "99"), "has 6 rows, so there is no row 99"),
        (("inspect", "./gone", "seed.jsonl"), "the tokenizer of './gone' cannot be loaded"),
        (("chat", "./gone"), "model './gone' cannot be loaded"),
    ],
)
def test_what_a_user_got_wrong_is_one_message_and_exit_code_one(
    arguments: tuple[str, ...], message: str, world: Path, srlm: Command
) -> None:
    code, out, err = srlm(*arguments)
    assert code == 1, out
    assert err.startswith("error: ")
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert not list(world.glob("x.*"))


def test_wrong_usage_is_exit_code_two(world: Path, srlm: Command) -> None:
    for arguments in (
        ("generate", "tiny", "prompts.txt"),
        ("judge", "tiny", "a.jsonl", "b.jsonl", "--out", "x.jsonl"),
        ("pairs", "seed.jsonl", "--out", "x.jsonl", "--unfinished", "maybe"),
    ):
        assert srlm(*arguments)[0] == 2


def test_a_served_model_judges(
    world: Path, srlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")

    def answer(asked: Asked, before: int) -> Reply:
        return chat("It is fine.\nScore: 4")

    with serving(answer) as server:
        where = ("--server", f"{server.url}", "--server-model", "big")
        code, out, err = srlm(
            "judge", "seed.jsonl", "--out", str(tmp_path / "j.jsonl"), *where, "--votes", "2"
        )
    assert (code, err) == (0, "")
    assert [row["score"] for row in rows_of(tmp_path / "j.jsonl")] == [4.0] * 6
    assert re.search(r"votes parsed +12\n", out)


def test_a_template_may_be_a_file_and_a_pick_a_function(world: Path, srlm: Command, tmp_path: Path) -> None:
    (tmp_path / "rubric.jinja").write_text("{{ prompt }} {{ response }} Score: N")
    (tmp_path / "mine.py").write_text("def first_two(scores):\n    return 1, 0\n")
    rows = [
        {"prompt_index": 0, "candidate": i, "prompt": "a?", "response": text, "score": score}
        for i, (text, score) in enumerate((("x", 1), ("y", 2), ("z", 3)))
    ]
    judgments = tmp_path / "j.jsonl"
    judgments.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = str(tmp_path / "p.jsonl")
    assert srlm("pairs", str(judgments), "--out", out, "--pick", f"{tmp_path / 'mine.py'}:first_two")[0] == 0
    assert [(row["chosen"], row["rejected"]) for row in rows_of(tmp_path / "p.jsonl")] == [("y", "x")]
    code, out, _ = srlm("inspect", "tiny", "seed.jsonl", "--template", str(tmp_path / "rubric.jinja"))
    assert code == 0
    assert "what of the sun? yes 0 Score: N" in out


def test_inspect_marks_what_carries_loss_with_and_without_colours(world: Path, srlm: Command) -> None:
    code, out, _ = srlm("inspect", "tiny", "seed.jsonl", "--row", "1")
    assert code == 0
    assert "as sft" in out
    assert re.search(r"\[y:\d+\] \[e:\d+\] \[s:\d+\] \[·:\d+\] \[1:\d+\] \[<eos>:0\]", out)
    assert "tokens, of which 6 carry loss; beginnings of sequence: 0, ends of sequence: 1" in out
    assert "judge prompt, template additive_small" in out
    assert "\x1b" not in out, "no terminal, no colours"
    assert "\x1b[32m" in srlm("inspect", "tiny", "seed.jsonl", "--colour")[1]


def test_inspect_json_adds_up(world: Path, srlm: Command) -> None:
    code, out, _ = srlm("inspect", "tiny", "seed.jsonl", "--json")
    found = json.loads(out)
    assert code == 0
    (view,) = found["views"]
    assert sum(token["is_target"] for token in view["tokens"]) == view["num_targets"]
    assert found["judge"]["fits"] is True


def test_inspect_escapes_hostile_text(world: Path, srlm: Command, tmp_path: Path) -> None:
    hostile = "\x1b[2Jgone\u202e"
    (tmp_path / "h.jsonl").write_text(json.dumps({"prompt": hostile, "response": hostile}) + "\n")
    factory = "tests.stages.worlds:factory"
    for options in ((), ("--json",), ("--no-colour",)):
        code, out, _ = srlm("inspect", factory, str(tmp_path / "h.jsonl"), *options)
        assert code == 0
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert "\\u001b" in out


def talk(srlm: Command, says: str, *options: str) -> tuple[int, list[str], str]:
    code, out, err = srlm("chat", "chatty", "--max-new-tokens", "6", *options, says=says)
    return code, out.splitlines(), err


def test_a_chat_reads_lines_and_ends_with_its_input(world: Path, srlm: Command) -> None:
    says = "hello\nwhy?\n"
    code, lines, err = talk(srlm, says)
    assert (code, err) == (0, "")
    assert talk(srlm, says) == (0, lines, "")
    assert talk(srlm, says, "--seed", "1")[1] != lines
    assert talk(srlm, f"hello\nwhy?\n/quit\n{says}")[1] == lines
    assert talk(srlm, "") == (0, [], "")


def test_a_chat_begins_anew_and_judges_and_goes_on_after_a_mistake(world: Path, srlm: Command) -> None:
    template = ("--template", "{{ prompt }} {{ response }}", "--votes", "2")
    code, lines, err = talk(srlm, "/judge\n/nothing\nhello\n/judge\n/reset\n/judge\n", *template)
    assert code == 0
    assert err.count("there is no answer to judge yet") == 2
    assert any("there is no '/nothing'" in line for line in lines)
    assert "(a new conversation)" in lines
    assert any(line.startswith("vote 2: ") for line in lines)
    assert any(re.match(r"(no )?score.*, of 2 votes$", line) for line in lines)


def test_the_system_s_text_changes_answers(world: Path, srlm: Command) -> None:
    assert talk(srlm, "hello\n")[1] != talk(srlm, "hello\n", "--system", "be brief")[1]


def test_a_model_without_a_chat_template_can_be_given_one(world: Path, srlm: Command) -> None:
    code, _, err = srlm("chat", "tiny", "--max-new-tokens", "4", says="a\nb\n")
    assert code == 0
    assert "needs a chat template" in err
    assert "--chat-template" in err
    given: Any = srlm("chat", "tiny", "--max-new-tokens", "4", "--chat-template", "transcript", says="a\nb\n")
    assert (given[0], given[2]) == (0, "")


def test_control_c_in_a_chat_ends_without_a_traceback(
    world: Path, srlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from self_rewarding_lm_pytorch.parts.chat import Chat

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "answer", interrupted)
    code, _, err = talk(srlm, "hello\n")
    assert code == 130
    assert "Traceback" not in err


def test_the_real_llama_tells_and_is_judged(stories_folder: Path, srlm: Command, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Once upon a time\nTom had a dog\n")
    files = [str(tmp_path / f"{name}.jsonl") for name in ("c", "j", "p")]
    model = str(stories_folder)
    few = ("--num", "2", "--max-new-tokens", "24")
    assert srlm("generate", model, str(tmp_path / "prompts.txt"), "--out", files[0], *few)[0] == 0
    rows = rows_of(Path(files[0]))
    assert all(row["response"].isascii() and len(row["response"]) > 20 for row in rows)
    judge = ("--template", "{{ prompt }} {{ response }}", "--mode", "expected")
    assert srlm("judge", model, files[0], "--out", files[1], *judge)[0] == 0
    code, out, _ = srlm("pairs", files[1], "--out", files[2], "--json")
    assert code == 0
    assert json.loads(out)["yield"]["pairs"] == 2
