"""Preference training as the stages compose it: pairs, their loss, their reference, and what is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.records import Example, PairExample
from self_rewarding_lm_pytorch.stages.base import StageOutcome, StageRun
from self_rewarding_lm_pytorch.stages.references import live_reference, reference_for, stored_reference
from self_rewarding_lm_pytorch.stages.resuming import Clock, finished, training_states
from self_rewarding_lm_pytorch.stages.training import run_training, supervised_term
from self_rewarding_lm_pytorch.training.batching import steps_per_epoch, tokens_at_once
from self_rewarding_lm_pytorch.training.first_batch import check_first_batch
from self_rewarding_lm_pytorch.training.loop import Hooks
from self_rewarding_lm_pytorch.training.objectives import AnyTerm, PreferenceObjective, Term
from self_rewarding_lm_pytorch.training.reference import MovingReference, Reference
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings


def train_on_pairs(
    run: StageRun,
    pairs: Sequence[PairExample],
    settings: PreferenceSettings,
    *,
    replay: Sequence[Example] = (),
    valid: Sequence[PairExample] = (),
    early_stopper: Any = None,
    reference: Reference | None = None,
    steps_folder: str = "steps",
    name: str | None = None,
) -> StageOutcome:
    """Preference training; the reference is what the settings name unless one is given.

    name: of the training among those of the stage; without one it is steps_folder's, or "train".
    """
    clock = Clock()
    name = name or ("train" if steps_folder == "steps" else steps_folder)
    states = training_states(run, name, len(pairs), _num_steps(pairs, settings))
    if outcome := finished(run, states):
        outcome.num_pairs = len(pairs)
        return outcome
    given = reference
    reference = reference or reference_for(run, pairs, settings, states.folder)
    hooks = Hooks(after_step=reference.update)
    if isinstance(reference, MovingReference):
        hooks.parts["reference"] = reference
    term = pair_term(run, "pairs", pairs, settings, reference)
    if given is None and not states.step:  # a stored step has passed it
        check_start(run, term, settings)
    if valid:
        whole = settings.model_copy(update={"batch_size": len(valid), "nll_weight": 0.0})
        held_out = given or _as_it_is_now(run, valid, whole, states.folder)
        hooks.validation = pair_term(run, "valid", valid, whole, held_out)
    terms = [term, *replay_terms(run, replay, settings)]
    outcome = run_training(
        run,
        terms,
        settings,
        hooks=hooks,
        early_stopper=early_stopper,
        steps_folder=steps_folder,
        states=states,
        clock=clock,
    )
    outcome.num_pairs = len(pairs)
    return outcome


def _num_steps(pairs: Sequence[PairExample], settings: PreferenceSettings) -> int:
    return settings.num_steps or settings.epochs * steps_per_epoch(len(pairs), settings.batch_size)


def pair_term(
    run: StageRun,
    name: str,
    pairs: Sequence[PairExample],
    settings: PreferenceSettings,
    reference: Reference,
) -> Term[Any, Any]:
    """Pairs and their loss."""
    policy, loss = run.env.policy, settings.preference_loss()
    if loss.needs_margin:
        check_margins(loss.name, pairs)
    objective = PreferenceObjective(
        loss,
        reference,
        beta=settings.beta,
        nll_weight=settings.nll_weight,
        # Processes that hold parts of the weights must ask the model equally often, forked rows or not.
        fork_width=0 if run.env.is_sharded else policy.fork_width,
        ld_alpha=settings.ld_alpha,
    )
    micro = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
    # A loss that compares the pairs of a step needs them in one pass, however long they are.
    tokens = tokens_at_once(settings.micro_batch_tokens, policy.device)
    limit = None if loss.needs_whole_batch else tokens
    return Term(name, pairs, objective, settings.batch_size, micro, max_tokens=limit)


def replay_terms(run: StageRun, replay: Sequence[Example], settings: PreferenceSettings) -> list[AnyTerm]:
    """Supervised examples that are trained on beside the pairs."""
    if not (replay and settings.replay_batch_size):
        return []
    repeated = supervised_term(
        run.env.policy, replay, settings, name="replay", size=settings.replay_batch_size
    )
    return [replace(repeated, weight=settings.replay_weight)]


def check_start(run: StageRun, term: Term[Any, Any], settings: PreferenceSettings) -> None:
    """Where the reference is the policy as training begins, the first batch must show it."""
    if settings.reference not in ("none", "initial"):
        check_first_batch(run.env.policy, term, run.seed)


def check_margins(loss: str, pairs: Sequence[PairExample]) -> None:
    unknown = next((number for number, pair in enumerate(pairs) if pair.margin is None), None)
    if unknown is not None:
        raise ConfigError(
            f"the loss {loss} uses how far apart a judge put the two responses, but pair {unknown} has no "
            "scores; take another loss here, or train on pairs that a stage of this run has judged"
        )


def _as_it_is_now(
    run: StageRun, pairs: Sequence[PairExample], settings: PreferenceSettings, folder: Path
) -> Reference:
    """For validation, whose numbers are to be compared over the stage."""
    if settings.reference == "none":
        return live_reference(run, settings)
    return stored_reference(run, pairs, settings, folder, name="valid-reference")
