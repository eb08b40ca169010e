"""Small training problems shared by the tests of the loop."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Example, PairExample
from self_rewarding_lm_pytorch.text import example_from_parts
from self_rewarding_lm_pytorch.training.loop import Hooks, TrainResult, train
from self_rewarding_lm_pytorch.training.objectives import PreferenceObjective, SupervisedObjective, Term
from self_rewarding_lm_pytorch.training.reference import LiveReference, StoredReference
from self_rewarding_lm_pytorch.training.settings import TrainSettings
from tests.helpers import VOCAB


def examples(count: int, seed: int = 0) -> list[Example]:
    """Rows of unequal length, prompt of unequal length."""
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(1000 * seed + i)
        row = torch.randint(0, VOCAB, (4 + 3 * i % 7,), generator=generator).tolist()
        made.append(example_from_parts(row[: 1 + i % 3], row[1 + i % 3 :]))
    return made


def pairs(count: int) -> list[PairExample]:
    both = zip(examples(count, seed=1), examples(count, seed=2), strict=True)
    return [PairExample(i, chosen, rejected) for i, (chosen, rejected) in enumerate(both)]


def supervised(items: list[Example], batch_size: int = 8, micro: int = 8, **arguments: Any) -> Term[Any, Any]:
    name = arguments.pop("name", "main")
    return Term(name, items, SupervisedObjective(), batch_size, micro, **arguments)


def preference(
    policy: Policy,
    items: list[PairExample],
    *,
    loss: str = "dpo",
    beta: float = 0.5,
    batch_size: int = 8,
    micro: int = 8,
    nll_weight: float = 0.0,
    reference: Any = None,
) -> Term[Any, Any]:
    reference = reference or StoredReference.of(LiveReference(policy), items, micro_batch_size=4)
    objective = PreferenceObjective(PREFERENCE_LOSSES[loss], reference, beta=beta, nll_weight=nll_weight)
    return Term("main", items, objective, batch_size, micro)


def run(
    policy: Policy,
    *terms: Term[Any, Any],
    seed: int = 0,
    hooks: Hooks | None = None,
    accelerator: Accelerator | None = None,
    **settings: Any,
) -> TrainResult:
    given = {"learning_rate": 1e-2, "schedule": "constant", "batch_size": terms[0].batch_size, **settings}
    accelerator = accelerator or Accelerator(cpu=True)
    return train(
        policy, terms, TrainSettings(**given), accelerator=accelerator, seed=("test", seed), hooks=hooks
    )


def weights(policy: Policy) -> Tensor:
    return torch.cat([p.detach().flatten() for p in policy.module.parameters()]).clone()
