"""A user's own loss, tried out on two pairs before anything is trained with it."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.losses.base import PreferenceLoss, Range
from self_rewarding_lm_pytorch.losses.table import PREFERENCE_LOSSES
from self_rewarding_lm_pytorch.objects import is_reference, load_object
from self_rewarding_lm_pytorch.records import PairLogProbs

WANTED = "a PreferenceLoss (self_rewarding_lm_pytorch.losses)"


def loss_named(name: str) -> PreferenceLoss:
    """One of ours by its name, or one's own by `file.py:NAME` or `package.module:NAME`.

    Raises ConfigError for a name that is not known and for an object that is no usable PreferenceLoss.
    """
    if name in PREFERENCE_LOSSES or not is_reference(name):
        return PREFERENCE_LOSSES[name]
    return checked(load_object(name, what="loss", wanted=WANTED), f"loss {name!r}")


def checked(loss: Any, what: str) -> PreferenceLoss:
    """The loss, if its options say their ranges and two pairs have finite losses that can be trained on."""
    if not isinstance(loss, PreferenceLoss):
        raise ConfigError(f"{what} is {_kind(loss)}; give {WANTED}, which holds the function")
    if not callable(loss.value):
        raise ConfigError(f"{what}: value is {_kind(loss.value)}; give a function (log-probs, beta) -> (B,)")
    _check_options(loss, what)
    _try_out(loss, what)
    return loss


def _check_options(loss: PreferenceLoss, what: str) -> None:
    try:
        hints = get_type_hints(loss.value, include_extras=True) if loss.options else {}
    except Exception as error:  # names in annotations that are not there
        raise ConfigError(f"{what}: the annotations of its options cannot be read: {error!r:.200}") from error
    for name in loss.options:
        if not any(isinstance(part, Range) for part in get_args(hints.get(name))[1:2]):
            raise ConfigError(
                f"{what}: its option {name!r} does not say which numbers it may be; annotate it as "
                f"`{name}: Annotated[float, Range(0, 1)]` (Range is in self_rewarding_lm_pytorch.losses)"
            )


def _try_out(loss: PreferenceLoss, what: str) -> None:
    pairs = PairLogProbs(
        chosen=torch.tensor([-3.0, -5.0], requires_grad=True),
        rejected=torch.tensor([-4.0, -4.5], requires_grad=True),
        reference_chosen=torch.tensor([-3.5, -5.0]),
        reference_rejected=torch.tensor([-3.5, -5.0]),
        chosen_lengths=torch.tensor([3, 4]),
        rejected_lengths=torch.tensor([2, 5]),
        margin=torch.tensor([1.0, 2.0]),
    )
    try:
        values = loss(pairs, 0.1)
    except Exception as error:  # anybody's code
        raise ConfigError(
            f"{what} fails on two pairs: {error!r:.300}; it is called as value(log-probs, beta, **options), "
            "where log-probs has chosen, rejected and the reference's, (B,) each"
        ) from error
    if not isinstance(values, Tensor) or values.shape != (2,):
        shape = f"a tensor {tuple(values.shape)}" if isinstance(values, Tensor) else _kind(values)
        raise ConfigError(f"{what} gives {shape} for two pairs; it must give each pair's loss, (B,), no mean")
    if not values.requires_grad:
        raise ConfigError(f"{what} cannot be trained on: its value does not depend on the policy's log-probs")
    if not bool(values.isfinite().all()):
        raise ConfigError(f"{what} gives {values.tolist()} for two ordinary pairs; losses must be finite")


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
