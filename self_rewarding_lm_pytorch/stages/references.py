"""What a stage's policy is compared with, by the name that its plan gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.records import PairExample
from self_rewarding_lm_pytorch.stages.base import StageRun
from self_rewarding_lm_pytorch.training.batching import tokens_at_once
from self_rewarding_lm_pytorch.training.reference import (
    AdapterOffReference,
    EMAReference,
    LiveReference,
    NoReference,
    Reference,
    RefreshedReference,
    StoredReference,
)
from self_rewarding_lm_pytorch.training.reference_parts import ReferenceParts
from self_rewarding_lm_pytorch.training.settings import PreferenceSettings


def reference_for(
    run: StageRun, pairs: Sequence[PairExample], settings: PreferenceSettings, folder: Path
) -> Reference:
    """For pairs that are all known: computed once and stored in the folder, unless it will move."""
    if settings.reference in ("none", "ema", "refresh"):
        return live_reference(run, settings)
    return stored_reference(run, pairs, settings, folder)


def stored_reference(
    run: StageRun,
    pairs: Sequence[PairExample],
    settings: PreferenceSettings,
    folder: Path,
    name: str = "reference",
) -> StoredReference:
    """The reference as it is now; what the folder holds under that name is not computed again."""
    policy = run.env.policy
    of = f"{settings.reference}, ld_alpha {settings.ld_alpha}"
    parts = ReferenceParts(folder, len(pairs), run.env.reporter.warn, name, of)
    known = parts.read_all()
    if known is not None:
        return StoredReference(*known)
    with run.env.reporter.phase("reference log-probs", len(pairs), "pairs") as phase:
        return StoredReference.of(
            _frozen(run, settings),
            pairs,
            micro_batch_size=min(settings.micro_batch_size or settings.batch_size, settings.batch_size),
            max_tokens=tokens_at_once(settings.micro_batch_tokens, policy.device),
            ld_alpha=settings.ld_alpha,
            on_progress=phase.advance,
            parts=parts,
        )


def live_reference(run: StageRun, settings: PreferenceSettings) -> Reference:
    """For pairs yet to be made, or a reference that moves."""
    policy = run.env.policy
    if settings.reference == "none":
        return NoReference()
    if settings.reference == "ema":
        return EMAReference(policy, settings.reference_ema_decay)
    if settings.reference == "refresh":
        return RefreshedReference(policy, settings.reference_refresh_every or 1)
    frozen = _frozen(run, settings)
    return LiveReference(policy.copy()) if frozen.policy is policy and not _is_off(settings) else frozen


def _frozen(run: StageRun, settings: PreferenceSettings) -> LiveReference:
    """The reference as it is now, which is the policy itself where that has not moved yet."""
    policy = run.env.policy
    if settings.reference == "initial":
        return LiveReference(run.env.initial_policy())
    if _is_off(settings):
        if fault := policy.adapter_fault():
            raise ConfigError(f"stage {run.name!r}: reference adapter_off cannot be had: {fault}")
        return AdapterOffReference(policy)
    return LiveReference(policy)


def _is_off(settings: PreferenceSettings) -> bool:
    return settings.reference == "adapter_off"
