"""Weights to files and back, and nobody's code is run on the way."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.models.weights import load_weights, read_weights, save_weights
from tests.helpers import Recurrent, hugging_face, recurrent, x_transformer

IDS = torch.tensor([[3, 7, 1, 4]])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.out = nn.Linear(4, 8, bias=False)
        self.out.weight = self.embed.weight


@pytest.mark.parametrize("make", [recurrent, x_transformer])
def test_weights_come_back_exactly(make: Any, tmp_path: Path) -> None:
    policy, other = make(seed=0), make(seed=1)
    assert not torch.equal(policy.logits(IDS), other.logits(IDS))
    policy.save(tmp_path)
    load_weights(other.module, tmp_path / "model.safetensors")
    assert torch.equal(policy.logits(IDS), other.logits(IDS))


def test_a_hugging_face_folder_loads_with_from_pretrained(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    policy = hugging_face("llama", dtype=torch.float32)
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, policy.module(IDS).logits)


def test_tied_weights_are_written_once_and_load_tied(tmp_path: Path) -> None:
    model, other, path = Tied(), Tied(), tmp_path / "tied.safetensors"
    save_weights(model, path)
    assert len(load_file(path)) == 1
    load_weights(other, path)
    assert torch.equal(other.embed.weight, model.embed.weight)
    assert other.out.weight is other.embed.weight


def test_a_file_of_another_size_is_refused_with_both_shapes(tmp_path: Path) -> None:
    save_weights(Recurrent(size=6), tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"\(32, 6\) in the file, \(32, 12\) in the model"):
        load_weights(Recurrent(), tmp_path / "small.safetensors")


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    save_weights(nn.Linear(3, 3), tmp_path / "linear.safetensors")
    with pytest.raises(CheckpointError, match=r"missing.*embed\.weight.*unknown.*'weight'|'bias'"):
        load_weights(Recurrent(), tmp_path / "linear.safetensors")


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in the published layout"])
def test_published_pt_files_are_read(wrapped: bool, tmp_path: Path) -> None:
    model, other, path = Recurrent(), Recurrent(), tmp_path / "model.pt"
    state = model.state_dict()
    torch.save({"model": state} if wrapped else state, path)
    load_weights(other, path)
    assert torch.equal(other.embed.weight, model.embed.weight)


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_code_in_a_pt_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "code was run"
    torch.save({"model": _Bomb(marker)}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(_Bomb(marker)))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_damaged_file_is_a_checkpoint_error_that_names_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"\x00\x01 not a checkpoint")
    with pytest.raises(CheckpointError, match="broken"):
        read_weights(path)


def test_a_pt_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_weights(tmp_path / "list.pt")


def test_saving_does_not_touch_the_model(tmp_path: Path) -> None:
    model = Recurrent()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_weights(model, tmp_path / "model.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
