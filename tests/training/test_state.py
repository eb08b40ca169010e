"""What a training leaves on disk: exact, bounded, and checked when it is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import CheckpointError
from self_rewarding_lm_pytorch.training import state
from self_rewarding_lm_pytorch.training.early_stopping import ComparingEvaluation, EarlyStopper
from self_rewarding_lm_pytorch.training.loop import Hooks
from self_rewarding_lm_pytorch.training.optimizer_state import OptimizerState
from self_rewarding_lm_pytorch.training.parts import Part, fault_of, read_parts, write_parts
from self_rewarding_lm_pytorch.training.state import TrainingStates
from self_rewarding_lm_pytorch.training.trained import put_weights, trained_weights
from tests.helpers import hugging_face, recurrent
from tests.training.worlds import examples, run, supervised, weights


def states(
    folder: Path, *, every: float = 0.0, of: Any = "it", said: list[str] | None = None
) -> TrainingStates:
    return TrainingStates(folder, of=of, every=every, warn=(said if said is not None else []).append)


def trained(folder: Path, num_steps: int, *, stop: int | None = None, dtype: Any = torch.float64) -> Tensor:
    """Weights after a training; it ends before step `stop`."""
    policy = recurrent(dropout=0.3, dtype=dtype)
    hooks = Hooks(states=states(folder), before_step=lambda step: step != stop)
    run(policy, supervised(examples(7), batch_size=3), num_steps=num_steps, hooks=hooks, schedule="cosine")
    return weights(policy)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_training_that_ended_early_goes_on_to_the_same_weights(dtype: Any, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 8, dtype=dtype)
    half = trained(tmp_path / "parts", 8, stop=5, dtype=dtype)
    assert not torch.equal(half, whole)
    assert torch.equal(trained(tmp_path / "parts", 8, dtype=dtype), whole)


def test_only_the_newest_state_is_kept(tmp_path: Path) -> None:
    trained(tmp_path, 8, stop=5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]


def test_the_newest_state_is_the_highest_step_also_beyond_six_digits(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        path = tmp_path / f"step-{step:06d}"
        path.mkdir()
        write_parts(path, "it", {"x": Part(values=step)})
    assert states(tmp_path).step == 1_000_000


def test_the_older_state_is_used_where_the_newest_is_damaged(tmp_path: Path) -> None:
    for step in (3, 4):
        (tmp_path / f"step-{step:06d}").mkdir()
        write_parts(tmp_path / f"step-{step:06d}", "it", {"x": Part({"w": torch.ones(3)}, step)})
    (tmp_path / "step-000004/x.safetensors").write_bytes(b"other")
    said: list[str] = []
    assert states(tmp_path, said=said).step == 3
    assert len(said) == 1
    assert "step-000004 is not used: x.safetensors is not as it was written" in said[0]


def test_a_state_of_another_training_is_named_and_not_used(tmp_path: Path) -> None:
    trained(tmp_path, 8, stop=5)
    said: list[str] = []
    assert states(tmp_path, of="that", said=said).step == 0
    assert "it is of another training, it, and this one is that" in said[0]


def test_nothing_in_a_state_is_pickled(tmp_path: Path) -> None:
    trained(tmp_path, 8, stop=5)
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".safetensors", ".json"}


def test_where_nothing_can_go_on_nothing_is_written(tmp_path: Path) -> None:
    never = states(tmp_path / "it", every=math.inf)
    run(recurrent(), supervised(examples(4)), num_steps=3, hooks=Hooks(states=never))
    never.finish({"x": Part(values=1)})
    assert not (tmp_path / "it").exists()


def test_before_its_time_no_state_is_written(tmp_path: Path) -> None:
    later = states(tmp_path / "it", every=3600)
    run(recurrent(), supervised(examples(4)), num_steps=3, hooks=Hooks(states=later))
    assert not (tmp_path / "it").exists()


def test_a_whole_state_that_does_not_fit_the_model_is_refused_in_words(tmp_path: Path) -> None:
    trained(tmp_path, 8, stop=5)
    policy = recurrent(size=7)
    with pytest.raises(CheckpointError, match=r"step-000005 does not fit this training.*or remove"):
        run(policy, supervised(examples(7), batch_size=3), num_steps=8, hooks=Hooks(states=states(tmp_path)))


def test_removing_a_stages_states_may_find_none(tmp_path: Path) -> None:
    state.remove(tmp_path)
    (tmp_path / "state/train/step-000001").mkdir(parents=True)
    state.remove(tmp_path)
    assert not list(tmp_path.iterdir())


class Comparing(ComparingEvaluation):
    """Somebody's own, which cannot be gone on with."""

    def begin(self, module: Any) -> float:
        return 0.0

    def __call__(self, module: Any) -> float:
        return 1.0


def test_what_cannot_be_stored_is_said_once_and_the_training_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    hooks = Hooks(states=states(tmp_path / "it", said=said), stopper=EarlyStopper(Comparing(), every=2))
    result = run(recurrent(), supervised(examples(4)), num_steps=4, hooks=hooks)
    assert result.num_steps == 4
    assert len(said) == 1
    assert "cannot be gone on with if it is cut off, but begins again" in said[0]
    assert "a Comparing, has no method `state`" in said[0]
    assert not (tmp_path / "it").exists()


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {
        "shared": shared,
        "view": shared[2:4],
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "number": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }
    values = {"best": -math.inf, "third": 1 / 3, "text": "ä", "nothing": None}
    write_parts(tmp_path, ["head"], {"x": Part(tensors, values), "bare": Part(values=[1])})
    assert fault_of(tmp_path) == ""
    back = read_parts(tmp_path)
    assert back["x"].values == values
    assert back["bare"] == Part({}, [1])
    assert back["x"].tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        other = back["x"].tensors[name]
        assert other.dtype == tensor.dtype
        assert torch.equal(other.nan_to_num(5), tensor.nan_to_num(5)) and other.shape == tensor.shape


@pytest.mark.parametrize("name", ["x.safetensors", "values.json", "state.json"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_whatever_happens_to_a_file_is_seen(name: str, how: str, tmp_path: Path) -> None:
    write_parts(tmp_path, "it", {"x": Part({"w": torch.ones(3)}, 1)})
    content = (tmp_path / name).read_bytes()
    changed = {"cut": content[:-3], "changed": content.replace(b"1", b"2").replace(b"\x80", b"\x81")}
    (tmp_path / name).unlink() if how == "gone" else (tmp_path / name).write_bytes(changed[how])
    assert fault_of(tmp_path)


def test_an_optimizer_with_nested_state_comes_back(tmp_path: Path) -> None:
    """As quantized optimizers hold theirs: dicts, tuples and numbers beside tensors."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    nested = {
        "q": {"code": torch.tensor([1, 2], dtype=torch.uint8), "sizes": (2, 3)},
        "step": 4,
        "name": None,
    }
    optimizer.state[parameter] = nested
    write_parts(tmp_path, "it", {"optimizer": OptimizerState(optimizer).state()})
    fresh = torch.optim.SGD([parameter], lr=0.1)
    OptimizerState(fresh).resume(read_parts(tmp_path)["optimizer"])
    found = fresh.state[parameter]
    assert found["step"] == 4
    assert found["name"] is None
    assert found["q"]["sizes"] == (2, 3)
    assert found["q"]["code"].tolist() == [1, 2]


def test_tied_weights_are_stored_once_and_stay_tied() -> None:
    policy = hugging_face("gpt2")
    held = trained_weights(policy.module)
    assert len({tensor.data_ptr() for tensor in held.values()}) == len(held)
    put_weights(policy.module, {name: tensor + 1 for name, tensor in held.items()})
    module: Any = policy.module
    assert module.lm_head.weight is module.transformer.wte.weight
