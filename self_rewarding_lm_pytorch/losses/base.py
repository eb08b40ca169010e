"""What a preference loss is: a function of log-probs, what it needs to be computed, and its options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args, get_type_hints

from torch import Tensor

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.records import PairLogProbs
from self_rewarding_lm_pytorch.registry import unknown_name

Option = float | None
"""An option's value; None is allowed only where it is the default, and means "work it out"."""


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers an option may be: low <= x < high, without low itself where `above`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def checked(self, what: str, value: object) -> float:
        """The value, if it is in the range."""
        if isinstance(value, int | float) and not isinstance(value, bool) and self._holds(value):
            return value
        bounds = f"{self.low:g} {'<' if self.above else '<='} x < {self.high:g}"
        raise ConfigError(f"{what} is {value!r}; give a number x with {bounds}")

    def _holds(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value < self.high


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """A loss by name. Callers read its needs, never its name.

    Its options are the keyword-only parameters of `value`; each is Annotated with the Range it may take.
    """

    name: str
    value: Callable[..., Tensor]  # (log-probs, beta, *, options) -> loss per pair, (B,)
    needs_reference: bool = True
    reduction: Literal["sum", "mean"] = "sum"  # what beta scales: a response's log-prob, or that per token
    needs_whole_batch: bool = False  # a pair's loss depends on the other pairs of the optimizer step
    needs_margin: bool = False
    given: Mapping[str, Option] = field(default_factory=dict, hash=False)  # options, where not the default

    def __call__(self, logprobs: PairLogProbs, beta: float) -> Tensor:
        return self.value(logprobs, beta, **self.given)

    @property
    def options(self) -> dict[str, Option]:
        """All options and their values."""
        return {**self._defaults, **self.given}

    def with_options(self, **options: Option) -> PreferenceLoss:
        for name, value in options.items():
            self._check(name, value)
        return replace(self, given={**self.given, **options})

    @property
    def _defaults(self) -> dict[str, Option]:
        return getattr(self.value, "__kwdefaults__", None) or {}

    def _check(self, name: str, value: Option) -> None:
        defaults = self._defaults
        if not defaults:
            raise ConfigError(f"{self.name} has no options but was given {name!r}; leave it out")
        if name not in defaults:
            raise ConfigError(unknown_name(f"option of {self.name}", name, defaults))
        if value is None and defaults[name] is None:
            return
        allowed: Range = get_args(get_type_hints(self.value, include_extras=True)[name])[1]
        allowed.checked(f"{name} of {self.name}", value)
