"""Everything the docs show is run: files are written, programs and commands run, in the order of the page.

The models they name stand in the folder as small untrained ones (world.py). What takes hours, a server,
several machines or the network is checked as far as it goes here, and `NOT_RUN` says why.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from self_rewarding_lm_pytorch.cli.main import app, main
from self_rewarding_lm_pytorch.config import Plan, load_plan
from tests.docs.blocks import Block, blocks_of
from tests.docs.world import make_world

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
OWN_TESTS = {"extending.md"}  # tests/extending runs its files
STAGE = {"kind": "self_reward", "prompts": ["why?"]}
SMALL = ["--set", "scale=0.03"]
NOT_RUN = {
    "torchrun": "tests/processes starts runs so",
    "accelerate": "tests/processes starts runs so",
    "tensorboard": "it serves until it is stopped",
    "python": "experiments take minutes to hours; tests/experiments runs them in small",
    "make": "its targets are checked",
    "pip": "what it names is checked",
}
NEEDS = {"--server-url": "a server", "judge-data": "a model that writes scores; tests/prepare has one"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(
    page: Path,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if page.name in OWN_TESTS:
        pytest.skip("tests/extending runs this page")
    folder = tmp_path / "here"
    shutil.copytree(world, folder)
    if page.name == "README.md":
        shutil.copytree(ROOT / "examples", folder / "examples")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for block in blocks_of(page):
        where = f"{page.name}, line {block.line}"
        if block.name:
            Path(block.name).write_text(block.text, encoding="utf-8")
        if block.language == "python" and not block.name:
            python(block.text, where)
        elif block.language == "yaml":
            assert planned(yaml.safe_load(block.text)).stages, where
        elif block.language == "bash":
            for command in block.commands:
                obeyed(command, where, monkeypatch, capsys)


def obeyed(
    line: str, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs one of our commands, in small; of others what they name must be there."""
    program, *words = shlex.split(line)
    if program != "self-rewarding-lm":
        assert program in NOT_RUN, f"{where}: {line}"
        named(program, words, f"{where}: {line}")
        return
    takes(words, f"{where}: {line}")
    if set(words) & set(NEEDS) or not is_runnable(words):
        return
    if words[0] == "train" and not any(word.startswith("scale=") for word in words):
        words += SMALL
    as_a_new_process()
    monkeypatch.setattr(sys, "argv", [program, *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n/quit\n"))
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    said = capsys.readouterr()
    assert code == 0, f"{where}: {line}\n{said.out[-1500:]}{said.err[-1500:]}"


def is_runnable(words: list[str]) -> bool:
    """Data of the hub are not here, nor are files that a page names without showing them."""
    files = [word for word in words if re.search(r"\.(yaml|jsonl|py)(:|$)", word) and "=" not in word]
    outputs = {words[place + 1] for place, word in enumerate(words[:-1]) if word == "--out"}
    missing = [file for file in files if file not in outputs and not Path(file.partition(":")[0]).exists()]
    if words[0] in ("evaluate", "report", "export", "chat", "merge"):
        missing += [w for w in words[1:2] if not all(Path(part).exists() for part in w.split(","))]
    is_far = any(
        Path(file).is_file() and "hub:" in Path(file).read_text() for file in files if "yaml" in file
    )
    return not missing and not (is_far and words[0] == "train")


def takes(words: list[str], where: str) -> None:
    """The command exists and has the options it is shown with."""
    command: Any = get_command(app)
    words = list(words)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, where
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, where


def named(program: str, words: list[str], where: str) -> None:
    if program == "python":
        assert (ROOT / words[0]).is_file(), where
    elif program == "make":
        assert re.search(rf"^{words[0]}: ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), (
            where
        )
    elif program == "pip":
        extras = re.findall(r"\[(.*?)\]", " ".join(words))
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(
            re.search(rf"^{e} = ", text, re.MULTILINE) for found in extras for e in found.split(",")
        ), where
    elif program in ("torchrun", "accelerate"):
        assert words[words.index("-m") + 1] == "self_rewarding_lm_pytorch", where
        takes(words[words.index("-m") + 2 :], where)


def planned(shown: Any) -> Plan:
    """A plan around what a page shows of one."""
    if isinstance(shown, list):
        return load_plan({"model": "any", "stages": shown})
    if shown.keys() & Plan.model_fields.keys():
        return load_plan({"model": "any", "stages": [STAGE], **shown})
    return load_plan({"model": "any", "stages": [{**STAGE, **shown}]})


def python(code: str, where: str) -> None:
    """Each block has a namespace of its own, as a file would; a new process for each would take seconds."""
    as_a_new_process()
    try:
        exec(compile(code, where, "exec"), {"__name__": "__main__"})
    except Exception as error:
        raise AssertionError(f"{where}: {error!r}") from error


def as_a_new_process() -> None:
    """accelerate keeps the first run's settings for as long as a process lives."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


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


def test_a_wrong_option_on_a_page_would_be_found() -> None:
    """The premise of all this."""
    with pytest.raises(AssertionError):
        takes(["train", "plan.yaml", "--no-such-option"], "a page")
    first = blocks_of(ROOT / "docs" / "quick-start.md")[0]
    assert isinstance(first, Block) and first.language == "bash" and len(first.commands) == 2
