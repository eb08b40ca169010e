"""Training as the stages compose it: terms, the loop, its log and its progress."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from self_rewarding_lm_pytorch.data.files import write_folder
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.records import Example
from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.stages.base import Environment, StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.early_stopping import WinRateStopping, as_stopper
from self_rewarding_lm_pytorch.stages.resuming import Clock, finish, finished, training_states
from self_rewarding_lm_pytorch.training.batching import tokens_at_once
from self_rewarding_lm_pytorch.training.early_stopping import EarlyStopper
from self_rewarding_lm_pytorch.training.loop import Hooks, planned_steps, train
from self_rewarding_lm_pytorch.training.objectives import AnyTerm, SupervisedObjective, Term
from self_rewarding_lm_pytorch.training.optimizer import half_precision_warning
from self_rewarding_lm_pytorch.training.settings import TrainSettings
from self_rewarding_lm_pytorch.training.state import TrainingStates

Evaluate = Callable[[Any], Any]


def supervised_term(
    policy: Policy,
    examples: Sequence[Example],
    settings: TrainSettings,
    *,
    name: str = "sft",
    size: int | None = None,
) -> Term[Any, Any]:
    batch = size or settings.batch_size
    micro = min(settings.micro_batch_size or batch, batch)
    tokens = tokens_at_once(settings.micro_batch_tokens, policy.device)
    return Term(name, examples, SupervisedObjective(), batch, micro, max_tokens=tokens)


def run_training(
    run: StageRun,
    terms: Sequence[AnyTerm],
    settings: TrainSettings,
    *,
    hooks: Hooks | None = None,
    early_stopper: Any = None,
    steps_folder: str = "steps",
    states: TrainingStates | None = None,
    clock: Clock | None = None,
) -> StageOutcome:
    """The loop with its metrics file, its progress and its states.

    A training that has ended is not run again, and one that was cut off goes on, from `states`; where a stage
    trains several times, it gives each its own. clock: what has run since the training began.
    """
    hooks, clock = hooks or Hooks(), clock or Clock()
    num_steps = planned_steps(settings, terms[0])
    hooks.states = states or training_states(run, "train", len(terms[0].items), num_steps)
    if outcome := finished(run, hooks.states, hooks.parts):
        return outcome
    hooks.parts = {**hooks.parts, "log": run.metrics, "clock": clock}
    early_stopper = as_stopper(early_stopper)
    win_rates = early_stopper.evaluator(run) if isinstance(early_stopper, WinRateStopping) else None
    if early_stopper is not None:
        hooks.stopper = _stopper(win_rates or early_stopper, settings)
    _begin(run, hooks.states)
    after_step = hooks.after_step
    with run.env.reporter.phase("training", num_steps, "steps") as phase:

        def on_log(step: int, steps: int, metrics: dict[str, float]) -> None:
            run.metrics.write(step, steps, metrics)
            run.watch.logged(step, metrics, steps_folder)
            phase.note = f"loss {metrics['loss']:.3f}" if "loss" in metrics else phase.note

        def advanced(step: int) -> None:
            after_step(step)
            phase.advance()
            if win_rates is not None:
                win_rates.step, win_rates.num_steps = step, num_steps
            if settings.checkpoint_every and step % settings.checkpoint_every == 0:
                with run.env.parallel.whole():
                    write_folder(run.folder / steps_folder / f"{step:06d}", run.env.policy.save)

        def on_bad_step(step: int, norm: float, rate: float, batch: Any) -> None:
            run.watch.not_finite(step, "gradient", norm, rate=rate, batch=batch, training=steps_folder)

        hooks.on_log, hooks.after_step, hooks.on_bad_step = on_log, advanced, on_bad_step
        hooks.step_done = run.step_done
        if hooks.states.step:
            phase.advance(hooks.states.step)
        result = train(
            run.env.policy,
            terms,
            settings,
            accelerator=run.env.accelerator,
            seed=run.seed,
            hooks=hooks,
            parallel=run.env.parallel,
        )
    if result.stopped_early:
        run.env.reporter.say(
            f"  stopped after {result.num_steps} steps: the evaluation fell; the best weights are back"
        )
    metrics = {**result.metrics, "num_steps": float(result.num_steps)}
    metrics |= win_rates.metrics if win_rates is not None else {}
    metrics.pop("tokens_per_second", None)  # a summary is a function of the plan
    outcome = StageOutcome(train_seconds=clock.seconds, metrics=metrics)
    finish(run, hooks.states, outcome, hooks.parts)
    return outcome


def _begin(run: StageRun, states: TrainingStates) -> None:
    warning = half_precision_warning(run.env.policy.module)
    if warning is not None:
        run.env.reporter.warn(warning)
    if states.step:
        run.env.reporter.say(f"  training goes on after step {states.step:,}")
    else:
        run.metrics.begin(run.metrics.num_lines)


def _stopper(source: Any, settings: TrainSettings) -> EarlyStopper:
    if isinstance(source, EarlyStopper):
        return source
    arguments = checked_names("early_stopper_kwargs", settings.early_stop_kwargs, EarlyStopper)
    return EarlyStopper(evaluator(source), every=settings.early_stop_every, **arguments)


def check_stopper(
    source: Any, settings: TrainSettings, env: Environment | None = None, stage: str = ""
) -> None:
    """Raises ConfigError (or DataError) for an early stopper that cannot be made."""
    if isinstance(source, WinRateStopping):
        checked_names("early_stopper_kwargs", settings.early_stop_kwargs, EarlyStopper)
        if env is not None:
            source.check(env, stage)
    elif source is not None:
        _stopper(source, settings)


def checked_names(where: str, given: dict[str, Any], callee: Callable[..., Any]) -> dict[str, Any]:
    """`given`, or a ConfigError for a key that the callee does not take."""
    known = [name for name in inspect.signature(callee).parameters if name not in ("evaluate", "every")]
    for name in given:
        if name not in known:
            raise ConfigError(unknown_name(f"key of {where}", name, known))
    return given


def evaluator(source: Any) -> Evaluate:
    """A callable giving one number for a model; a plan names it as `package.module:name`."""
    if callable(source):
        evaluate: Evaluate = source
        return evaluate
    module, _, name = str(source).rpartition(":")
    try:
        found: Evaluate = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"early_stopper {source!r} cannot be loaded ({error}); give module:function, where "
            "function(model) returns one number, higher is better, or {kind: win_rate, prompts: FILE, ...}"
        ) from error
    return found
