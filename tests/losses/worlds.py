"""Pairs to compute losses of."""

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.records import PairLogProbs

NAMES = [name for name in PREFERENCE_LOSSES if name != "sft"]  # sft is nll by another name

EXAMPLE = (-10.0, -14.0, -12.0, -13.0)


def pairs(*rows: tuple[float, float, float, float], margin: float = 2.0) -> PairLogProbs:
    """Rows of log p(chosen), log p(rejected), and the reference's; 5 and 7 tokens long."""
    columns = torch.tensor(rows, dtype=torch.float64).T.clone()
    return PairLogProbs(
        *columns,
        chosen_lengths=torch.full((len(rows),), 5),
        rejected_lengths=torch.full((len(rows),), 7),
        margin=torch.full((len(rows),), margin, dtype=torch.float64),
    )


def random_pairs(
    count: int = 6, seed: int = 0, *, at_reference: bool = False, dtype: torch.dtype = torch.float64
) -> PairLogProbs:
    """Log-probs a model could give, per token between -3 and 0, and a margin of each pair."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (2, count), generator=generator)

    def sums(side: int) -> Tensor:
        drawn = torch.rand(count, generator=generator, dtype=torch.float64)
        return (-lengths[side] * (0.05 + 2.9 * drawn)).to(dtype)

    chosen, rejected, margin = sums(0), sums(1), torch.rand(count, generator=generator).to(dtype)
    reference = (chosen.clone(), rejected.clone()) if at_reference else (sums(0), sums(1))
    return PairLogProbs(chosen, rejected, *reference, *lengths, margin=4 * margin)


def slopes(logprobs: PairLogProbs, name: str, beta: float) -> tuple[Tensor, Tensor]:
    """The gradients of the summed loss with respect to chosen and rejected."""
    inputs = [logprobs.chosen.requires_grad_(), logprobs.rejected.requires_grad_()]
    value = PREFERENCE_LOSSES[name](logprobs, beta).sum()
    chosen, rejected = torch.autograd.grad(value, inputs, materialize_grads=True)
    return chosen, rejected
