"""What commands say where: the terminal, the log file, the logger of the package, and programs' JSON."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from self_rewarding_lm_pytorch.pipeline.silent import Silent
from self_rewarding_lm_pytorch.progress import LOGGER, Reporter
from tests.cli.test_cli import PLAN, Command, srlm, world

__all__ = ["srlm", "world"]

ONE = {**yaml.safe_load(PLAN), "stages": yaml.safe_load(PLAN)["stages"][:1]}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands in this process set up its logging."""
    root, handlers, propagates, level = (
        logging.getLogger(),
        LOGGER.handlers[:],
        LOGGER.propagate,
        LOGGER.level,
    )
    before = root.handlers[:], root.level
    yield
    for handler in LOGGER.handlers:
        handler.close()
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagates
    LOGGER.setLevel(level)
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.fixture
def one(world: Path) -> Path:
    """The world with a plan of one stage."""
    (world / "one.yaml").write_text(yaml.safe_dump(ONE))
    return world


def test_what_a_reporter_says_an_application_can_take_from_its_logger(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "self_rewarding_lm_pytorch")
    reporter = Reporter()
    reporter.say("news [bold] 100%s")
    reporter.warn("few pairs\x1b[31m")
    with reporter.phase("training", 2, "steps") as phase:
        phase.advance(2)
    reporter.table("closing", ["model", "score"], [["M1", "3.1"]])
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said[0] == ("INFO", "news [bold] 100%s")
    assert said[1] == ("WARNING", "few pairs\\u001b[31m")
    assert said[2][1].startswith("  training: 2 steps in")
    assert said[3:] == [("INFO", "closing"), ("INFO", "model | score"), ("INFO", "M1 | 3.1")]
    assert "warning: few pairs" in capsys.readouterr().out, "and the terminal as ever"


def test_a_quiet_reporter_logs_what_it_shows_or_all_if_asked_and_a_silent_one_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "self_rewarding_lm_pytorch")
    for reporter in (Reporter(quiet=True), Reporter(quiet=True, logs=True), Silent()):
        reporter.say("news")
        reporter.warn("mind this")
    assert [record.getMessage() for record in caplog.records] == ["mind this", "news", "mind this"]


def test_without_logging_set_up_nothing_comes_twice() -> None:
    """Python alone would print warnings of a logger that nobody handles on standard error."""
    code = "from self_rewarding_lm_pytorch.progress import Reporter; Reporter().warn('mind this')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("warning: mind this\n", "")


def test_an_applications_own_logging_takes_a_whole_run_in_another_process(one: Path) -> None:
    code = (
        "import logging\n"
        "form = '%(levelname)s %(name)s %(message)s'\n"
        "logging.basicConfig(filename='app.log', level=logging.INFO, format=form)\n"
        "from self_rewarding_lm_pytorch.pipeline import run\n"
        "from self_rewarding_lm_pytorch.progress import Reporter\n"
        "run('one.yaml', reporter=Reporter(quiet=True, logs=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=one)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "quiet on the terminal"
    lines = (one / "app.log").read_text().splitlines()
    assert "INFO self_rewarding_lm_pytorch 1. seed (sft)" in lines
    assert any("training: 4 steps" in line for line in lines)


def test_json_leaves_standard_output_to_the_summary(one: Path, srlm: Command) -> None:
    code, out, err = srlm("train", "one.yaml", "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary == json.loads((one / "runs/tiny/summary.json").read_text())
    assert summary["status"] == "completed"
    assert "1. seed (sft)" in err
    assert "runs/tiny: completed" in err
    code, again, _ = srlm("train", "one.yaml", "--json", "--quiet")
    assert (code, json.loads(again)) == (0, summary), "of a finished run too"


def test_a_log_file_has_it_all_with_times_also_when_quiet_and_is_appended_to(
    one: Path, srlm: Command
) -> None:
    code, out, _ = srlm("train", "one.yaml", "--quiet", "--log-file", "logs/run.log")
    assert code == 0
    assert "1. seed (sft)" not in out
    lines = (one / "logs/run.log").read_text().splitlines()
    assert any(line.endswith("INFO self_rewarding_lm_pytorch: 1. seed (sft)") for line in lines)
    assert all(line[:2] == "20" for line in lines), "each line has its time"
    assert srlm("train", "one.yaml", "--set", "seed=7", "--log-file", "logs/run.log")[0] == 1
    more = (one / "logs/run.log").read_text().splitlines()
    assert more[: len(lines)] == lines
    assert any("ERROR" in line for line in more[len(lines) :]), "what a command ended with as well"


def test_a_log_file_that_cannot_be_written_is_said_before_the_run(one: Path, srlm: Command) -> None:
    code, _, err = srlm("train", "one.yaml", "--log-file", "seed.jsonl/run.log")
    assert code == 1
    assert "--log-file 'seed.jsonl/run.log' cannot be written" in err
    assert not (one / "runs").exists()


def test_verbose_adds_the_traceback_of_an_expected_error(one: Path, srlm: Command) -> None:
    plain = srlm("train", "one.yaml", "--set", "stages.seed.data=gone.jsonl")[2]
    assert "Traceback" not in plain
    wordy = srlm("train", "one.yaml", "--verbose", "--set", "stages.seed.data=gone.jsonl")[2]
    assert "Traceback" in wordy
    assert wordy.endswith(plain)


def test_verbose_shows_what_libraries_log(one: Path, srlm: Command) -> None:
    (one / "reward.py").write_text(
        "import logging\n\ndef length(prompts, responses):\n"
        "    logging.getLogger('mine').info('asked for %d', len(responses))\n"
        "    return [float(len(set(text))) for text in responses]\n"
    )
    plan = {**yaml.safe_load(PLAN), "stages": yaml.safe_load(PLAN)["stages"][2:]}
    (one / "one.yaml").write_text(yaml.safe_dump(plan))
    code, out, err = srlm("train", "one.yaml", "--verbose")
    assert code == 0
    assert "INFO mine: asked for" in err
    assert "1. outside (external_reward)" in out
    assert "1. outside (external_reward)" not in err, "what is on the terminal is not said twice"
