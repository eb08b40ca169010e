"""Trackers, callbacks, keep_last and cards with adapters, and on two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from self_rewarding_lm_pytorch.pipeline import run
from tests.fitting_in.test_model_card import card, front_matter
from tests.fitting_in.test_trackers import scalars
from tests.helpers import byte_codec
from tests.processes.launch import plan_file, train
from tests.stages.worlds import QUIET, hugging_face, plan
from tests.test_resume import Deadly, in_a_fork, needs_fork


@needs_fork
def test_an_adapters_checkpoint_has_our_card_and_not_pefts_and_the_run_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "run"
    settings = plan(
        folder, "seed", "given", tokenizer=byte_codec(), adapter={"r": 2, "between_stages": "carried"}
    )
    settings["model"] = hugging_face()
    assert in_a_fork(lambda: run({**settings, "model": hugging_face()}, reporter=Deadly("2. given", 1)))
    assert run(settings, reporter=QUIET)["status"] == "completed"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "peft" in manifest["versions"] and "bitsandbytes" not in manifest["versions"]
    files = manifest["stages"][1]["files"]
    assert "adapter_model.safetensors" in files and "README.md" not in files
    text = card(folder, "02-given")
    assert front_matter(text)["library_name"] == "peft" and "2106.09685" in text and "stage 2 of 2" in text


@pytest.mark.slow  # two processes, half a minute
def test_on_two_processes_the_main_one_alone_logs_removes_and_writes_cards(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    path = plan_file(tmp_path, "seed", "given", trackers=["tensorboard"], keep_last=1)
    code, said = train(path)
    assert code == 0, said
    folder = tmp_path / "run"
    assert len(list((folder / "trackers" / "tensorboard").glob("events*"))) == 1
    found = scalars(folder)
    assert [step for step, _ in found["results/train_seconds"]] == [3, 5]
    assert [path.parent.name for path in folder.glob("stages/*/checkpoint")] == ["02-given"]
    assert "stage 2 of 2" in card(folder, "02-given")
