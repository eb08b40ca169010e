"""The commands as a user types them: help, a whole run on a Hugging Face folder, errors in words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from self_rewarding_lm_pytorch import __version__
from self_rewarding_lm_pytorch.cli import main as cli

PLAN = """
model: tiny
seed: 0
run: runs/tiny
generation: {shard_size: 4}
stages:
  - {name: seed, kind: sft, data: seed.jsonl, num_steps: 4, batch_size: 4, learning_rate: 1e-3}
  - name: first
    kind: self_reward
    prompts: prompts.txt
    num_pairs: 3
    candidates: {num: 3, temperature: 1.0, max_new_tokens: 6}
    judge: {votes: 2, unparsed: force, max_new_tokens: 6}
    train: {batch_size: 2, learning_rate: 1e-3}
  - name: outside
    kind: external_reward
    prompts: prompts.txt
    candidates: {num: 3, temperature: 1.0, max_new_tokens: 6}
    reward: reward.py:length
    train: {batch_size: 2, learning_rate: 1e-3}
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def srlm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["self-rewarding-lm", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return command


def write_world(folder: Path) -> None:
    """A plan, its data, its reward function, and a tiny Llama with a byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(["<eos>", *letters])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>").save_pretrained(folder / "tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=768,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "tiny")
    rows = [{"prompt": f"q{i}?", "response": f"yes {i}"} for i in range(8)]
    (folder / "seed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.txt").write_text("what of the sun?\nwhat of the sea?\nand the sky?\nand the owl?\n")
    reward = "def length(prompts, responses):\n    return [float(len(set(text))) for text in responses]\n"
    (folder / "reward.py").write_text(reward)
    (folder / "plan.yaml").write_text(PLAN)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ["demo", "train", "report", "export", "--version"]),
        (("train",), ["PLAN", "--set", "stages.second.beta=0.2", "--fresh", "--quiet"]),
        (("demo",), ["--seed", "--run-dir", "--fresh"]),
        (("report",), ["RUN_DIR", "report.html"]),
        (("export",), ["RUN_DIR", "--out", "TRL"]),
    ],
)
def test_every_command_explains_itself(command: tuple[str, ...], words: list[str], srlm: Command) -> None:
    code, out, _ = srlm(*command, "--help")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out).lower()
    assert code == 0
    assert not [word for word in words if word.lower() not in plain], plain


def test_version(srlm: Command) -> None:
    assert srlm("--version") == (0, f"{__version__}\n", "")


def test_an_unknown_command_or_option_is_a_usage_error(srlm: Command) -> None:
    for arguments in (("trian",), ("train", "plan.yaml", "--sett", "a=1"), ("train",)):
        code, _, err = srlm(*arguments)
        assert code == 2
        assert "Traceback" not in err


def test_train_runs_a_plan_then_shows_its_table_again_then_reports_and_exports(
    world: Path, srlm: Command
) -> None:
    code, out, err = srlm("train", "plan.yaml", "--set", "stages.first.num_pairs=2", "--set", "seed=3")
    assert (code, err) == (0, "")
    assert "\x1b" not in out, "plain lines where there is no terminal"
    for words in ("1. seed (sft)", "shard 1: answers", "reference log-probs", "3. outside", "completed"):
        assert words in out
    summary = json.loads((world / "runs/tiny/summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["seed", "first", "outside"]
    assert summary["stages"][1]["num_pairs"] == 2
    shown = yaml.safe_load((world / "runs/tiny/plan.yaml").read_text())
    assert (shown["seed"], shown["stages"][1]["num_pairs"]) == (3, 2)
    for stage in summary["stages"]:
        assert f"runs/tiny/{stage['checkpoint']}" in out, "the table says where each checkpoint is"
    assert (world / "runs/tiny/report.html").stat().st_size > 10_000

    from transformers import AutoModelForCausalLM, AutoTokenizer

    last = world / "runs/tiny" / summary["stages"][-1]["checkpoint"]
    tokenizer, model = AutoTokenizer.from_pretrained(last), AutoModelForCausalLM.from_pretrained(last)
    assert model(**tokenizer("what?", return_tensors="pt")).logits.shape == (1, 5, 257)

    before = last.stat().st_mtime_ns
    code, out, _ = srlm("train", "plan.yaml", "--set", "stages.first.num_pairs=2", "--set", "seed=3")
    assert code == 0
    assert "is finished and is not run again" in out
    assert "--fresh" in out
    assert "03-outside/checkpoint" in out
    assert last.stat().st_mtime_ns == before

    code, out, err = srlm("train", "plan.yaml", "--set", "seed=4")
    assert code == 1
    assert "seed: 3 became 4" in err
    assert "stages.2.num_pairs: 2 became 3" in err

    (world / "runs/tiny/report.html").unlink()
    code, out, _ = srlm("report", "runs/tiny")
    assert (code, out.strip()) == (0, "runs/tiny/report.html")
    assert (world / "runs/tiny/report.html").exists()

    code, out, _ = srlm("export", "runs/tiny", "--out", "out")
    assert code == 0
    pairs = [json.loads(line) for line in (world / "out/02-first-pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 2
    assert {"prompt", "chosen", "rejected"} <= set(pairs[0])
    assert re.search(r"2 rows +out/02-first-pairs\.jsonl", out)
    assert srlm("export", "runs/tiny")[0] == 0
    assert (world / "runs/tiny/export/02-first-pairs.jsonl").is_file(), "beside the run, not among another's"


def test_quiet_leaves_only_the_closing_table_and_fresh_begins_anew(world: Path, srlm: Command) -> None:
    code, out, _ = srlm("train", "plan.yaml", "--quiet", "--set", "stages.seed.num_steps=1")
    assert code == 0
    assert "training" not in out
    assert out.startswith("runs/tiny: completed\n")
    code, out, _ = srlm("train", "plan.yaml", "--quiet", "--fresh")
    assert code == 0
    assert yaml.safe_load((world / "runs/tiny/plan.yaml").read_text())["stages"][0]["train"]["num_steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "gone.yaml"), "plan 'gone.yaml' cannot be read: No such file"),
        (("train", "seed.jsonl"), "must be a mapping|is not YAML"),
        (("train", "plan.yaml", "--set", "stages.first.bta=1"), "unknown key 'bta'; did you mean 'beta'?"),
        (("train", "plan.yaml", "--set", "stages.third.beta=1"), "there is no 'third' in the plan"),
        (("train", "plan.yaml", "--set", "stages.seed.data=gone.jsonl"), "no data file 'gone.jsonl'"),
        (("train", "plan.yaml", "--set", "stages.outside.reward=reward.py:gone"), "unknown name 'gone'"),
        (
            ("train", "plan.yaml", "--set", "stages.outside.reward=broken.py:f"),
            "broken.py:f' cannot be loaded",
        ),
        (("train", "plan.yaml", "--set", "stages.first.judge.template=nice"), "neither a built-in"),
        (("train", "plan.yaml", "--set", "model=./gone"), "model './gone' cannot be loaded"),
        (("train", "plan.yaml", "--set", "model=gone:factory"), "of a function without arguments"),
        (("report", "gone"), "there is no run folder 'gone'"),
        (("export", "gone"), "holds no stages to export"),
    ],
)
def test_what_a_user_got_wrong_is_one_message_and_exit_code_one(
    arguments: tuple[str, ...], message: str, world: Path, srlm: Command
) -> None:
    (world / "broken.py").write_text("def f(:\n")
    code, _, err = srlm(*arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert not (world / "runs").exists()


def test_every_problem_of_a_plan_is_in_the_one_message(world: Path, srlm: Command) -> None:
    overrides = ["seed=x", "stages.first.num_pairs=0", "stages.outside.candidates.nmu=3"]
    code, _, err = srlm("train", "plan.yaml", *(part for each in overrides for part in ("--set", each)))
    assert code == 1
    assert err.count("\n  - ") == 3


def test_a_reward_function_that_fails_is_named_with_what_it_was_given(world: Path, srlm: Command) -> None:
    (world / "reward.py").write_text("def length(prompts, responses):\n    return 1 / 0\n")
    code, _, err = srlm("train", "plan.yaml", "--set", "stages.seed.num_steps=1", "--quiet")
    assert code == 1
    assert "reward function length failed on a batch of" in err
    assert "division by zero" in err
    assert json.loads((world / "runs/tiny/summary.json").read_text())["status"] == "failed"
    assert "seed" in (world / "runs/tiny/report.html").read_text(), "the page shows what was done before"


def test_export_of_a_run_without_pairs_says_so(world: Path, srlm: Command) -> None:
    (world / "one.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(PLAN), "stages": yaml.safe_load(PLAN)["stages"][:1]})
    )
    assert srlm("train", "one.yaml", "--quiet")[0] == 0
    code, out, _ = srlm("export", "runs/tiny")
    assert code == 0
    assert "holds no pairs and no judgments yet" in out


def test_a_model_factory_may_stand_in_the_working_directory(world: Path, srlm: Command) -> None:
    (world / "my_tiny_model.py").write_text(
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from self_rewarding_lm_pytorch.models.load import codec_for\n"
        "def make():\n"
        "    model = AutoModelForCausalLM.from_pretrained('tiny')\n"
        "    return model, codec_for(AutoTokenizer.from_pretrained('tiny'), model)\n"
    )
    code, out, _ = srlm("train", "plan.yaml", "--quiet", "--set", "model=my_tiny_model:make")
    assert code == 0
    assert "runs/tiny: completed" in out


def test_control_c_ends_with_130_and_no_traceback(
    world: Path, srlm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "reward.py").write_text("def length(prompts, responses):\n    raise KeyboardInterrupt\n")
    code, out, err = srlm("train", "plan.yaml")
    assert code == 130
    assert "the same command goes on from runs/tiny" in out
    assert "Traceback" not in err


def test_help_comes_without_loading_torch() -> None:
    code = (
        "import sys\nsys.argv = ['srlm', '--help']\n"
        "from self_rewarding_lm_pytorch.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("False")


def test_demo_takes_its_folder_from_the_seed(
    srlm: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from self_rewarding_lm_pytorch.demo import main as demo

    monkeypatch.chdir(tmp_path)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(demo, "run_demo", lambda **arguments: asked.append(arguments))
    assert [srlm("demo")[0], srlm("demo", "--seed", "2")[0]] == [0, 0]
    assert srlm("demo", "--seed", "2", "--run-dir", "x", "--fresh")[0] == 0
    assert [str(each["folder"]) for each in asked] == [str(Path("runs/demo")), str(Path("runs/demo-2")), "x"]
    assert [each["seed"] for each in asked] == [0, 2, 2]
    assert asked[2]["fresh"] is True


def test_a_plan_is_never_written_over_by_its_own_run(world: Path, srlm: Command) -> None:
    before = (world / "plan.yaml").read_text()
    code, _, err = srlm("train", "plan.yaml", "--set", "run=.")
    assert (code, (world / "plan.yaml").read_text()) == (1, before)
    assert "would be written over by the run's own; name a folder for the run alone" in err


def test_a_plan_without_a_stage_is_refused_however_it_came_to_that(world: Path, srlm: Command) -> None:
    code, _, err = srlm("plan", "plan.yaml", "--set", "stages=[]")
    assert code == 1
    assert "a list of at least one stage" in err


def test_a_schema_takes_no_other_files_place(world: Path, srlm: Command) -> None:
    (world / "mine.json").write_text("[1]")
    assert srlm("schema", "--out", "mine.json")[0] == 1
    assert (world / "mine.json").read_text() == "[1]"
    assert srlm("schema", "--out", "new.json")[0] == srlm("schema", "--out", "new.json")[0] == 0


def test_a_tokenizer_named_in_a_plan_is_refused_with_where_it_belongs(world: Path, srlm: Command) -> None:
    code, _, err = srlm("plan", "plan.yaml", "--set", "tokenizer=tiny")
    assert code == 1
    assert "tokenizer='tiny': a plan's model brings its own tokenizer" in err
