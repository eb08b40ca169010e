"""How a plan says what to sample."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from self_rewarding_lm_pytorch.generation.filters import FILTERS, FilterFn
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.stages.base import Settings


class SamplingSettings(Settings):
    """Temperature first, then one filter: by its usual name and number, or any function."""

    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    filter_fn: FilterFn | str | None = None
    filter_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _other_filter(cls, values: Any) -> Any:
        """Another filter than a subclass's default top_p takes its place."""
        others = ("top_k", "min_p", "filter_fn")
        if isinstance(values, dict) and "top_p" not in values and any(name in values for name in others):
            return {**values, "top_p": None}
        return values

    @model_validator(mode="after")
    def _one_filter(self) -> SamplingSettings:
        given = [name for name in ("top_p", "top_k", "min_p", "filter_fn") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; choose one filter")
        if isinstance(self.filter_fn, str) and self.filter_fn not in FILTERS:
            raise ValueError(unknown_name("filter", self.filter_fn, list(FILTERS)))
        return self

    def sampling(self) -> Sampling:
        if self.filter_fn is not None:
            function = FILTERS[self.filter_fn] if isinstance(self.filter_fn, str) else self.filter_fn
            return Sampling(self.temperature, function, self.filter_kwargs)
        for name, argument in (("top_p", "thres"), ("top_k", "k"), ("min_p", "p")):
            value = getattr(self, name)
            if value is not None:
                return Sampling(self.temperature, FILTERS[name], {argument: value})
        return Sampling(self.temperature, None)


class CandidateSettings(SamplingSettings):
    """The answers sampled for each prompt. Defaults: Self-Rewarding LMs, section 3.1."""

    num: Annotated[int, Field(ge=2)] = 4
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None  # default: at most 256, as the context allows
