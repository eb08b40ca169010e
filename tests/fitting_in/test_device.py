"""The one setting of where a run computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.generation import sampling
from self_rewarding_lm_pytorch.generation.sampling import Sampling, sample
from self_rewarding_lm_pytorch.models import precision
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator
from self_rewarding_lm_pytorch.training.device import check_found
from tests.stages.worlds import QUIET, plan, weights

needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_a_run_on_the_cpu_is_noted_as_that_and_is_what_auto_gives_without_a_gpu(tmp_path: Path) -> None:
    run(plan(tmp_path / "cpu", "seed", "own", device="cpu"), reporter=QUIET)
    assert json.loads((tmp_path / "cpu" / "manifest.json").read_text())["device"] == "cpu"
    if not torch.cuda.is_available():
        run(plan(tmp_path / "auto", "seed", "own"), reporter=QUIET)
        assert weights(tmp_path / "auto") == weights(tmp_path / "cpu")


@needs_no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_said_with_its_cause_before_anything_is_written(
    device: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"device: {device} is an NVIDIA GPU, but torch .* finds none"):
        run(plan(tmp_path / "run", "seed", device=device), reporter=QUIET)
    assert not (tmp_path / "run").exists()


@needs_cuda
def test_a_gpu_whose_number_is_too_high_is_said_with_the_count() -> None:
    with pytest.raises(ConfigError, match="numbered from 0"):
        make_accelerator({}, "cuda:99")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="says what is said without Apple's GPU")
def test_apples_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match="device: mps is Apple's GPU"):
        make_accelerator({}, "mps")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CPU", "", "cuda:0,1"])
def test_a_device_that_is_none_is_refused_with_the_plan(device: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known are auto, cpu, cuda, cuda:N"):
        load_plan(plan(tmp_path, "seed", device=device))
    with pytest.raises(ConfigError, match="known are auto, cpu, cuda, cuda:N"):
        make_accelerator({}, device)


@pytest.mark.parametrize(("device", "arguments"), [("cuda", {"cpu": True}), ("cpu", {"cpu": False})])
def test_two_settings_that_contradict_each_other_are_refused(device: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="contradict each other"):
        make_accelerator(arguments, device)


def test_one_gpu_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        make_accelerator({}, "cuda:1")


def test_an_accelerator_on_another_device_is_not_taken_in_silence() -> None:
    check_found("auto", torch.device("cpu"))
    check_found("cuda:1", torch.device("cuda"))
    with pytest.raises(ConfigError, match="keeps the device that a process began with"):
        check_found("cuda", torch.device("cpu"))


def test_auto_leaves_apples_gpu_alone_and_naming_it_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from self_rewarding_lm_pytorch.training.device import device_arguments

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_arguments("auto", {}) == {"cpu": True}
    assert device_arguments("auto", {"cpu": False}) == {"cpu": False}
    assert device_arguments("mps", {}) == {}


def test_where_a_device_has_no_float64_the_draw_is_made_on_the_cpu_from_the_same_logits() -> None:
    meta, cpu = torch.empty(2, 3, device="meta"), torch.randn(2, 3)
    assert precision.float64_device(torch.device("mps")) == torch.device("cpu")
    assert precision.float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert precision.where_float64_is(meta) is meta and precision.where_float64_is(cpu) is cpu
    assert precision.in_float64(cpu).dtype == torch.float64


def test_every_draw_asks_where_float64_is(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    monkeypatch.setattr(sampling, "where_float64_is", lambda logits: moved.append(logits.shape) or logits)
    logits, uniforms = torch.randn(4, 600), torch.rand(4, dtype=torch.float64)
    sample(logits, Sampling(0.7), uniforms)
    sampling.filtered_probabilities(logits, Sampling(0.7))
    assert moved == [(4, 600), (4, 600)]


@needs_cuda
def test_a_run_on_a_named_gpu_is_the_run_that_auto_gives(tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState, PartialState

    found = {}
    for device in ("auto", "cuda", "cuda:0"):
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        folder = tmp_path / device.replace(":", "-")
        run(plan(folder, "seed", "own", "text", device=device), reporter=QUIET)
        assert json.loads((folder / "manifest.json").read_text())["device"].startswith("cuda")
        found[device] = weights(folder)
    assert found["auto"] == found["cuda"] == found["cuda:0"]
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
