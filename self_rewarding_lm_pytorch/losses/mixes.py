"""A loss from what a plan says: a name, or names with weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.losses.base import Option, PreferenceLoss, Range
from self_rewarding_lm_pytorch.losses.margins import weighted_by_margin
from self_rewarding_lm_pytorch.losses.own import checked, loss_named
from self_rewarding_lm_pytorch.records import PairLogProbs
from self_rewarding_lm_pytorch.registry import unknown_name

Weight = float | Mapping[str, Option]
"""A part's weight, or its own settings: weight (1 if absent), beta (the mix's if absent) and options."""

POSITIVE = Range(0, above=True)


def preference_loss(
    spec: str | PreferenceLoss | Mapping[str, Weight],
    *,
    margin_weighted: bool = False,
    own: Mapping[str, PreferenceLoss] = MappingProxyType({}),
    **options: Option,
) -> PreferenceLoss:
    """The loss of a name, such as "dpo", or of a mix, such as {"dpo": 1, "nll": 0.2}.

    A name may be one's own loss, "file.py:NAME" or "package.module:NAME"; own: those that are loaded already.

    In a mix each option goes to all parts that have it; a part may also have settings of its own:
    {"dpo": 1, "simpo": {"weight": 0.2, "beta": 2, "gamma": 1}}.
    """
    if isinstance(spec, PreferenceLoss):
        loss = checked(spec, f"loss {spec.name}").with_options(**options)
    elif isinstance(spec, str):
        loss = (own.get(spec) or loss_named(spec)).with_options(**options)
    elif isinstance(spec, Mapping) and spec:
        named = {name: own.get(name) or loss_named(name) for name in spec}
        loss = _mix([_part(name, named[name], weight, options) for name, weight in spec.items()], options)
    else:
        raise ConfigError(
            f"the preference loss is {spec!r}; give a name such as dpo, or names with weights such as "
            "{dpo: 1, nll: 0.2}"
        )
    return weighted_by_margin(loss) if margin_weighted else loss


@dataclass(frozen=True, slots=True)
class Part:
    """A loss in a mix."""

    loss: PreferenceLoss
    weight: float
    beta: float | None  # None: the mix's

    def __call__(self, logprobs: PairLogProbs, beta: float) -> Tensor:
        return self.weight * self.loss(logprobs, beta if self.beta is None else self.beta)


def _part(name: str, loss: PreferenceLoss, weight: Weight, shared: Mapping[str, Option]) -> Part:
    settings: dict[str, Option] = dict(weight) if isinstance(weight, Mapping) else {"weight": weight}
    known = {"weight", "beta", *loss.options}
    for key in settings:
        if key not in known:
            raise ConfigError(unknown_name(f"setting of {name} in a mix", key, known))
    share = POSITIVE.checked(f"the weight of {name}", settings.pop("weight", 1.0))
    beta = settings.pop("beta", None)
    if beta is not None:
        beta = POSITIVE.checked(f"the beta of {name}", beta)
    common = {key: value for key, value in shared.items() if key in loss.options}
    return Part(loss.with_options(**{**common, **settings}), share, beta)


def _mix(parts: list[Part], options: Mapping[str, Option]) -> PreferenceLoss:
    known = {key for part in parts for key in part.loss.options}
    name = " + ".join(f"{part.weight:g} {part.loss.name}" for part in parts)
    for key in options:
        if key not in known:
            raise ConfigError(unknown_name(f"option of {name}", key, known))

    def value(logprobs: PairLogProbs, beta: float) -> Tensor:
        return torch.stack([part(logprobs, beta) for part in parts]).sum(dim=0)

    return PreferenceLoss(
        name,
        value,
        needs_reference=any(part.loss.needs_reference for part in parts),
        reduction="mean" if all(part.loss.reduction == "mean" for part in parts) else "sum",
        needs_whole_batch=any(part.loss.needs_whole_batch for part in parts),
        needs_margin=any(part.loss.needs_margin for part in parts),
    )
