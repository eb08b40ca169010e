"""The one training loop. It knows items, objectives and steps; not where items come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.interrupts import Interrupted
from self_rewarding_lm_pytorch.models.logprobs import SequenceLogProbs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.training.batching import bounded_parts, steps_per_epoch
from self_rewarding_lm_pytorch.training.early_stopping import EarlyStopper
from self_rewarding_lm_pytorch.training.meter import Metrics
from self_rewarding_lm_pytorch.training.objectives import AnyTerm
from self_rewarding_lm_pytorch.training.optimizer import learning_rate
from self_rewarding_lm_pytorch.training.parallel import Parallel, Replicated
from self_rewarding_lm_pytorch.training.parts import Part, Resumable
from self_rewarding_lm_pytorch.training.settings import TrainSettings
from self_rewarding_lm_pytorch.training.state import TrainingStates
from self_rewarding_lm_pytorch.training.stepper import OnBadStep, Stepper
from self_rewarding_lm_pytorch.training.trained import TrainedWeights

if TYPE_CHECKING:  # half a second to import
    from accelerate import Accelerator


@dataclass
class Hooks:
    """What may be called while training; every hook is optional."""

    on_log: Callable[[int, int, Metrics], None] = lambda step, num_steps, metrics: None
    before_step: Callable[[int], bool] = lambda step: True  # gets the number of finished steps; False ends
    after_step: Callable[[int], None] = lambda step: None  # gets it too
    # The same once a step is logged, where it is: number, number of all, metrics (empty at other steps).
    step_done: Callable[[int, int, Metrics], None] = lambda step, num_steps, metrics: None
    stopper: EarlyStopper | None = None
    validation: AnyTerm | None = None
    states: TrainingStates | None = None  # where it is saved as it goes, and gone on with
    parts: dict[str, Resumable] = field(default_factory=dict)  # what else is then part of it
    on_bad_step: OnBadStep = lambda step, norm, rate, batch: None  # the gradient is not finite


@dataclass
class TrainResult:
    """What a training came to."""

    num_steps: int = 0
    stopped_early: bool = False
    metrics: Metrics = field(default_factory=dict)  # last logged values

    def state(self) -> Part:
        return Part(values={"num_steps": self.num_steps, "metrics": self.metrics})

    def resume(self, part: Part) -> None:
        self.num_steps, self.metrics = part.values["num_steps"], part.values["metrics"]


def train(
    policy: Policy,
    terms: Sequence[AnyTerm],
    settings: TrainSettings,
    *,
    accelerator: Accelerator,
    seed: Sequence[int | str],
    hooks: Hooks | None = None,
    parallel: Parallel | None = None,
) -> TrainResult:
    """Runs the optimizer steps of one stage; the first term sets how many.

    Each step takes a batch from every term, sums each term's loss over its micro-batches and divides
    by the term's count over the whole step, so that how the batch is split changes no gradient.
    Where hooks.states holds a state, the policy must be as it was when the training began. parallel: how the
    processes of a run share the work; it must be of this policy.
    """
    hooks, parallel = hooks or Hooks(), parallel or Replicated(policy)
    trained = parallel.policy
    recomputing = trained.recomputing(settings.gradient_checkpointing)
    with trained.dropout(settings.dropout), recomputing, torch.random.fork_rng(), parallel.training():
        stepper = Stepper(parallel, terms, settings, accelerator, seed, hooks.on_bad_step)
        training = _Training(policy, parallel, settings, hooks, stepper, planned_steps(settings, terms[0]))
        for step in range(training.begin(), training.num_steps):
            if not training.prepare(step) or not training.step(step):
                break
        training.read_rest()
    if hooks.stopper:
        hooks.stopper.restore(policy.module)
    policy.module.eval()
    return training.result


class _Training:
    """What is done around the optimizer steps."""

    def __init__(
        self,
        policy: Policy,
        parallel: Parallel,
        settings: TrainSettings,
        hooks: Hooks,
        stepper: Stepper,
        num_steps: int,
    ) -> None:
        self._policy = policy
        self._parallel = parallel
        self._settings = settings
        self._hooks = hooks
        self._stepper = stepper
        self.num_steps = num_steps
        self.result = TrainResult()

    @property
    def _parts(self) -> dict[str, Resumable]:
        """All that is no function of the plan and the step, in the order in which it is taken up again."""
        parts = {
            "policy": TrainedWeights(self._parallel.policy.module),
            **self._stepper.parts,
            "result": self.result,
        }
        stopper = self._hooks.stopper
        return {**parts, **self._hooks.parts, **({"stopper": stopper} if stopper else {})}

    def begin(self) -> int:
        """How many steps are finished: none, or those of the state that is gone on with."""
        finished = self._hooks.states.resume(self._parts) if self._hooks.states else 0
        if self._hooks.stopper and not finished:
            with self._parallel.whole():
                self._hooks.stopper.begin(self._policy.module)
        return finished

    def prepare(self, step: int) -> bool:
        """What comes before step `step`; False where there is nothing to train on."""
        try:
            return self._hooks.before_step(step)
        except Interrupted:  # between two stored shards, say
            # On several processes a second signal may have come to this one alone, and saving takes them all.
            if self._hooks.states and step and processes.world_size() == 1:
                self._hooks.states.save(step, self._parts)
            raise

    def step(self, step: int) -> bool:
        """One step and what is due after it; False where training is to stop."""
        settings, hooks, done = self._settings, self._hooks, step + 1
        self._stepper.run(step, learning_rate(settings, step, self.num_steps))
        self.result.num_steps = done
        hooks.after_step(done)
        is_last = done == self.num_steps
        metrics: Metrics = {}
        if _due(settings.log_every, done, is_last):
            metrics |= self._stepper.read_metrics(done)
        if hooks.validation and _due(settings.validate_every, done, is_last):
            with self._parallel.whole():
                metrics |= validation_metrics(self._policy, hooks.validation)
        if metrics:
            self.result.metrics |= metrics
            hooks.on_log(done, self.num_steps, metrics)
        hooks.step_done(done, self.num_steps, metrics)
        if hooks.stopper and _due(hooks.stopper.every, done, is_last) and self._is_to_stop(hooks.stopper):
            self.result.stopped_early = not is_last
            return False
        if hooks.states and not is_last:
            hooks.states.step_done(done, self._parts)
        return True

    def _is_to_stop(self, stopper: EarlyStopper) -> bool:
        with self._parallel.whole():
            return stopper.check(self._policy.module)

    def read_rest(self) -> None:
        """Where training ended between two logged steps."""
        if self._stepper.num_unread:
            self.result.metrics |= self._stepper.read_metrics(self.result.num_steps)
            self._hooks.on_log(self.result.num_steps, self.num_steps, self.result.metrics)


def planned_steps(settings: TrainSettings, main: AnyTerm) -> int:
    """How many steps a training has, if nothing ends it before."""
    return settings.num_steps or settings.epochs * steps_per_epoch(len(main.items), main.batch_size)


def validation_metrics(policy: Policy, term: AnyTerm) -> Metrics:
    """The term's loss over all its items, without dropout."""
    total, count = 0.0, 0.0
    logprobs = SequenceLogProbs(policy)
    with policy.evaluating():
        for part in bounded_parts(term.items, is_whole=term.max_tokens is None):
            for items in term.micro_batches(part)[processes.rank() :: processes.world_size()]:
                batch = term.objective.collate(items).to(policy.device)
                total += float(term.objective.loss(logprobs, batch)[0])
                count += sum(term.objective.count(item) for item in items)
    totals, counts = zip(*processes.gathered((total, count)), strict=True)
    return {"valid_loss": sum(totals) / sum(counts)}


def _due(every: int | None, step: int, is_last: bool) -> bool:
    return is_last or (every is not None and step % every == 0)
