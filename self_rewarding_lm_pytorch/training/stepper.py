"""One optimizer step after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from self_rewarding_lm_pytorch.errors import TrainingError
from self_rewarding_lm_pytorch.seeds import address
from self_rewarding_lm_pytorch.training.meter import Meter, Metrics
from self_rewarding_lm_pytorch.training.objectives import AnyTerm, FreshTerm
from self_rewarding_lm_pytorch.training.optimizer import make_optimizer, skip_if
from self_rewarding_lm_pytorch.training.optimizer_state import OptimizerState
from self_rewarding_lm_pytorch.training.parallel import Parallel, clip
from self_rewarding_lm_pytorch.training.parts import Resumable
from self_rewarding_lm_pytorch.training.settings import TrainSettings

if TYPE_CHECKING:  # half a second to import
    from accelerate import Accelerator

OnBadStep = Callable[[int, float, float, Mapping[str, Sequence[Any]]], None]
"""Called with (step from 1, gradient norm, learning rate, items of each term), before the error."""


class Stepper:
    """Takes the steps; numbers stay on the device until they are read."""

    def __init__(
        self,
        parallel: Parallel,
        terms: Sequence[AnyTerm],
        settings: TrainSettings,
        accelerator: Accelerator,
        seed: Sequence[int | str],
        on_bad_step: OnBadStep = lambda step, norm, rate, batch: None,
    ) -> None:
        self._parallel = parallel
        self._policy = policy = parallel.policy
        self._terms = terms
        self._settings = settings
        self._accelerator = accelerator
        self._seed = tuple(seed)
        self._on_bad_step = on_bad_step
        self._optimizer = make_optimizer(policy.module, settings)
        policy.module.zero_grad(set_to_none=True)  # the caller may have left gradients
        self._meter = Meter(policy.device)

    @property
    def parts(self) -> dict[str, Resumable]:
        """What it holds between two steps."""
        return {"optimizer": OptimizerState(self._optimizer), "meter": self._meter}

    def run(self, step: int, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._policy.module.train()
        for term in self._terms:
            self._backward(term, step)
        self._parallel.sum_gradients()
        norm = clip(self._policy.module, self._settings.max_grad_norm)
        self._meter.end_step(rate, norm)
        # A gradient that is not finite is never applied; where the optimizer cannot see to it, we wait.
        if not skip_if(self._optimizer, ~norm.isfinite()):
            self._check_gradients(step + 1)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _backward(self, term: AnyTerm, step: int) -> None:
        items = term.batch(step, self._seed)
        count = sum(term.objective.count(item) for item in items)
        if not count:
            raise TrainingError(
                f"the {len(items)} items of step {step + 1} hold no target token, so there is nothing to "
                "train on; look for empty responses in the data"
            )
        for share in self._parallel.own(term, items):
            # A function of the step and the share, so no generator's state needs to be saved.
            torch.manual_seed(address("dropout", *self._seed, step, term.name, share.number))
            batch = term.objective.collate(share.items).to(self._policy.device)
            loss, sums = term.objective.loss(self._parallel.model, batch)
            loss = loss * (term.weight / count)
            if not loss.requires_grad:
                raise TrainingError(
                    f"step {step + 1}: no gradient reaches the weights, so training would change nothing; "
                    "look for detach() or no_grad in the model's forward"
                )
            # Accelerate divides by its own accumulation; ours is in `count` already.
            scale = share.weight * self._accelerator.gradient_accumulation_steps
            self._accelerator.backward(loss * scale)
            if not share.weight:
                continue
            self._meter.add("loss", loss.detach(), 0.0)  # of all terms; divided by steps
            num = sum(term.objective.count(item) for item in share.items)
            for name, value in sums.items():
                self._meter.add(_metric_name(term, self._terms, name), value, num)
        self._meter.tokens += sum(len(item) for item in items)

    @property
    def num_unread(self) -> int:
        """Steps since the last reading."""
        return self._meter.num_steps

    def read_metrics(self, num_steps: int) -> Metrics:
        """Means since the last reading; num_steps: finished steps."""
        self._check_gradients(num_steps)
        return self._meter.read()

    def _check_gradients(self, num_steps: int) -> None:
        bad = self._meter.bad_step()
        if bad is not None:
            bad_step = num_steps - bad.since
            self._on_bad_step(bad_step, bad.norm, bad.rate, self._items(bad_step - 1, num_steps - 1))
            raise TrainingError(
                f"the gradient of step {num_steps - bad.since} is not finite ({bad.norm}), so the update "
                f"would destroy the weights; lower the learning rate ({bad.rate:g}) or look at that "
                "batch's data"
            )

    def _items(self, step: int, now: int) -> dict[str, list[Any]]:
        """Of each term, the items of a step that was not long ago, where they are still there."""
        return {
            term.name: term.batch(step, self._seed)
            for term in self._terms
            if not isinstance(term, FreshTerm) or step // term.every == now // term.every
        }


def _metric_name(term: AnyTerm, terms: Sequence[AnyTerm], name: str) -> str:
    return name if term is terms[0] else f"{term.name}_{name}"
