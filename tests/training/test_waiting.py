"""A step between two logged ones asks the device for no number, so that the host may run ahead of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from self_rewarding_lm_pytorch.errors import TrainingError
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.training.loop import Hooks
from self_rewarding_lm_pytorch.training.objectives import PreferenceObjective, SupervisedObjective, Term
from self_rewarding_lm_pytorch.training.parallel import Replicated
from self_rewarding_lm_pytorch.training.reference import LiveReference, StoredReference
from self_rewarding_lm_pytorch.training.settings import TrainSettings
from self_rewarding_lm_pytorch.training.stepper import Stepper
from tests.helpers import recurrent
from tests.stages.worlds import MODELS
from tests.training.worlds import examples, pairs, run, supervised, weights

# What makes a host wait for a device: reading a number, and shapes that depend on values.
_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2")


class Waits(TorchDispatchMode):
    """Notes each of them; on a CPU they are the same operations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITS or (
            name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class OnHost:
    """The parts of a term that read what never was on a device."""

    def __init__(self, objective: Any) -> None:
        self._objective = objective
        self.loss = objective.loss

    def count(self, item: Any) -> float:
        with _disable_current_modes():
            return float(self._objective.count(item))

    def collate(self, items: Sequence[Any]) -> Any:
        with _disable_current_modes():
            return self._objective.collate(items)


def terms_of(policy: Policy) -> dict[str, Term[Any, Any]]:
    both = pairs(8)
    stored = StoredReference.of(LiveReference(policy), both, micro_batch_size=4)

    def preference(width: int, **arguments: Any) -> Any:
        return PreferenceObjective(PREFERENCE_LOSSES["dpo"], stored, beta=0.1, fork_width=width, **arguments)

    return {
        "supervised": Term("main", examples(8), OnHost(SupervisedObjective()), 8, 4),
        "pairs side by side": Term("main", both, OnHost(preference(0)), 8, 4),
        "pairs in one row": Term("main", both, OnHost(preference(policy.fork_width)), 8, 4),
        "long ends less": Term("main", both, OnHost(preference(0, ld_alpha=0.5)), 8, 4),
    }


# Where it gets no mask, transformers looks at the positions of each forward pass for packed rows.
_TRANSFORMERS_OWN = {"supervised": 2, "pairs side by side": 4, "long ends less": 4}


@pytest.mark.parametrize("kind", ["supervised", "pairs side by side", "pairs in one row", "long ends less"])
@pytest.mark.parametrize("model", MODELS)
def test_a_step_waits_for_no_number(model: str, kind: str) -> None:
    policy = policy_for(MODELS[model]())
    term = terms_of(policy)[kind]
    stepper = Stepper(Replicated(policy), [term], TrainSettings(), Accelerator(cpu=True), ("test",))
    with Waits() as waits:
        stepper.run(0, 1e-3)
    theirs = _TRANSFORMERS_OWN.get(kind, 0) if model == "hugging face" else 0
    assert waits.found == ["_local_scalar_dense"] * theirs
    assert stepper.read_metrics(1)["loss"] > 0


def test_steps_after_a_bad_gradient_are_taken_and_the_bad_one_is_named_at_the_next_reading() -> None:
    policy = recurrent()
    before = weights(policy)
    bad = {"step": 1}

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan if bad["step"] == 2 else gradient

    seen = []
    policy.module.out.weight.register_hook(spoil)  # type: ignore[union-attr, operator]

    def after(step: int) -> None:
        seen.append(weights(policy))
        bad["step"] = step + 1

    with pytest.raises(TrainingError, match=r"gradient of step 2 is not finite"):
        run(policy, supervised(examples(4)), num_steps=6, log_every=3, hooks=Hooks(after_step=after))
    assert len(seen) == 3
    assert torch.equal(seen[1], seen[0])
    assert not torch.equal(seen[0], before)
    assert bool(seen[2].isfinite().all())
    assert not torch.equal(seen[2], seen[1])


@pytest.mark.parametrize("optimizer", ["rmsprop", "adamw"])
def test_no_optimizer_applies_a_gradient_that_is_not_finite(optimizer: str) -> None:
    policy = recurrent()
    policy.module.out.weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[union-attr, operator]
    before = weights(policy)
    with pytest.raises(TrainingError, match="step 1 is not finite"):
        run(policy, supervised(examples(4)), num_steps=3, log_every=3, optimizer=optimizer)
    assert torch.equal(weights(policy), before)
