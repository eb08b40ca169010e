"""Where reference log-probs come from: computed once and stored, or asked of a live model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from ema_pytorch import EMA
from torch import Tensor

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.collate import collate_pairs
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs, side_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import PairBatch, PairExample
from self_rewarding_lm_pytorch.training.batching import bounded_parts, micro_batches
from self_rewarding_lm_pytorch.training.parts import Part
from self_rewarding_lm_pytorch.training.reference_parts import ReferenceParts
from self_rewarding_lm_pytorch.training.trained import TrainedWeights


class Reference(Protocol):
    """What a preference loss compares the policy with. No gradient flows into it, and no dropout is in it."""

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Reference log-probs of chosen and rejected, (B,) each."""
        ...

    def update(self, step: int) -> None:
        """Called after each optimizer step with how many there have been."""
        ...


class FrozenReference:
    """A reference that stays as it is."""

    def update(self, step: int) -> None:
        pass


class NoReference(FrozenReference):
    """For losses without one: rewards are then the policy's own log-probs."""

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(len(batch.index))
        return zeros, zeros


class StoredReference(FrozenReference):
    """Log-probs of a frozen reference, looked up by each pair's index. No second model is held."""

    def __init__(self, chosen: Tensor, rejected: Tensor) -> None:
        self._chosen = chosen  # float (num_pairs,), on the CPU
        self._rejected = rejected

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        return self._chosen[batch.index], self._rejected[batch.index]

    @classmethod
    def of(
        cls,
        reference: LiveReference,
        pairs: Sequence[PairExample],
        *,
        micro_batch_size: int,
        max_tokens: int | None = None,
        ld_alpha: float = 1.0,
        on_progress: Callable[[int], None] = lambda done: None,
        parts: ReferenceParts | None = None,
    ) -> StoredReference:
        """What a live reference says now; pair i of all has the index i.

        PART pairs are read at a time, and kept in `parts`; those that are there already are not asked again.
        """
        sides = torch.zeros(2, len(pairs))
        policy, start = reference.policy, 0
        for number, part in enumerate(bounded_parts(pairs)):
            own = slice(start, start + len(part))
            start += len(part)
            known = None if parts is None else parts.read(number)
            if known is not None:
                sides[:, own] = known
                on_progress(len(part))
                continue
            micros = micro_batches(part, micro_batch_size, max_tokens)
            found: list[tuple[Tensor, Tensor]] = []
            for micro in micros[processes.rank() :: processes.world_size()]:
                batch = collate_pairs(micro, fork_width=policy.fork_width, ld_alpha=ld_alpha)
                batch = batch.to(policy.device)
                found.append((batch.index, torch.stack([side.float().cpu() for side in reference(batch)])))
                on_progress(len(micro))
            for index, values in (entry for others in processes.gathered(found) for entry in others):
                sides[:, index] = values
            if parts is not None:
                parts.write(number, sides[:, own])
        return cls(*sides)


class LiveReference(FrozenReference):
    """Log-probs asked of a model at each batch; the caller sees to it that it stays frozen."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        with self.policy.evaluating():
            return side_logprobs(partial(sequence_logprobs, self.policy), batch)


class AdapterOffReference(LiveReference):
    """The policy itself without its adapter: no second model is held."""

    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        with self.policy.without_adapter():
            return super().__call__(batch)


class MovingReference(LiveReference):
    """A model of its own that follows the policy, and is part of a training's state."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.copy())
        self._online = policy.module

    def state(self) -> Part:
        return TrainedWeights(self.policy.module, of=self._online).state()

    def resume(self, part: Part) -> None:
        TrainedWeights(self.policy.module, of=self._online).resume(part)


class EMAReference(MovingReference):
    """A reference that follows the policy: after each step r <- decay r + (1 - decay) p."""

    def __init__(self, policy: Policy, decay: float) -> None:
        super().__init__(policy)
        self._ema = EMA(
            policy.module,
            ema_model=self.policy.module,
            beta=decay,
            include_online_model=False,
        )
        self._decay = decay

    def update(self, step: int = 0) -> None:
        # Not `EMA.update`, whose warm-up would use another decay than the one asked for.
        self._ema.update_moving_average(self.policy.module, self._online, self._decay)


class RefreshedReference(MovingReference):
    """A reference that becomes the policy every so many steps (TR-DPO's hard update, 2404.09656)."""

    def __init__(self, policy: Policy, every: int) -> None:
        super().__init__(policy)
        self._every = every

    def update(self, step: int) -> None:
        if step % self._every == 0:
            self.policy.module.load_state_dict(self._online.state_dict())
