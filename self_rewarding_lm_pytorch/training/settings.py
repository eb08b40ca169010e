"""How a stage trains. One validated record, shared by every stage kind."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PrivateAttr, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES, PreferenceLoss, loss_named, preference_loss
from self_rewarding_lm_pytorch.objects import is_reference
from self_rewarding_lm_pytorch.registry import unknown_name

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0)]


class TrainSettings(BaseModel):
    """Optimizer, schedule and batch of a stage. Steps are optimizer steps."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    END_FRACTION: ClassVar[float] = 0.1

    batch_size: Positive = 16  # items in one optimizer step, in all
    micro_batch_size: Positive | None = None  # items in one forward pass; default: as micro_batch_tokens
    micro_batch_tokens: Positive | None = None  # tokens in one forward pass; default: by the device
    epochs: Positive = 1
    num_steps: Positive | None = None  # instead of epochs
    learning_rate: Rate = 1e-6  # at its peak
    end_learning_rate: Rate | None = None  # default: END_FRACTION of the peak
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    num_decay_steps: Positive | None = None  # default: all steps
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of all steps, instead of warmup_steps
    weight_decay: Rate = 0.0
    optimizer: Literal["adamw", "rmsprop", "adamw_8bit"] = "adamw"
    optimizer_kwargs: dict[str, Any] = Field(default_factory=dict)  # its further arguments
    max_grad_norm: Rate | None = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # None: as the model was built
    gradient_checkpointing: bool = False  # layers are computed again in the backward pass: slower, smaller
    validate_every: Positive | None = None
    early_stop_every: Positive = 200
    early_stop_kwargs: dict[str, Any] = Field(default_factory=dict)  # further EarlyStopper arguments
    checkpoint_every: Positive | None = None  # weights saved on the way, beside the stage's checkpoint
    log_every: Positive = 10

    @model_validator(mode="before")
    @classmethod
    def _default_end(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("end_learning_rate") is not None:
            return values
        peak = values.get("learning_rate", cls.model_fields["learning_rate"].default)
        is_number = isinstance(peak, int | float)
        return {**values, "end_learning_rate": peak * cls.END_FRACTION} if is_number else values

    @model_validator(mode="after")
    def _end_below_peak(self) -> TrainSettings:
        if self.end_learning_rate is not None and self.end_learning_rate > self.learning_rate:
            raise ValueError(
                f"end_learning_rate {self.end_learning_rate} is above learning_rate "
                f"{self.learning_rate}; a schedule falls from the peak to the end"
            )
        return self

    @model_validator(mode="after")
    def _one_warmup(self) -> TrainSettings:
        if self.warmup_steps and self.warmup_fraction:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and warmup_fraction {self.warmup_fraction} are both "
                "given; choose one"
            )
        return self


ReferenceKind = Literal["stage_start", "initial", "ema", "refresh", "none", "adapter_off"]
"""What a policy is compared with: itself as the stage began or as the run began, its moving average, itself
every so many steps, nothing, or itself without its adapter."""


class PreferenceSettings(TrainSettings):
    """TrainSettings of a stage that trains on pairs."""

    # A name, file.py:NAME of one's own, a mix of them ({dpo: 1, nll: 0.2}), or from Python a PreferenceLoss.
    loss: str | dict[str, Any] | SkipJsonSchema[InstanceOf[PreferenceLoss]] = "dpo"
    loss_options: dict[str, float] = Field(default_factory=dict)
    ld_alpha: Annotated[float, Field(ge=0, le=1)] = 1.0  # weight of tokens beyond the shorter response
    margin_weighted: bool = False  # each pair's loss times its margin, the judge's points
    beta: Annotated[float, Field(gt=0)] = 0.1
    nll_weight: Rate = 0.0  # of the chosen response's mean negative log-likelihood
    reference: ReferenceKind = "stage_start"  # default: none where the loss has no need, ema with a decay
    reference_ema_decay: Annotated[float, Field(ge=0, le=1)] = 1.0  # of reference ema, per step
    reference_refresh_every: Positive | None = None  # steps between two references of reference refresh
    replay_batch_size: Annotated[int, Field(ge=0)] = 0  # supervised examples in each step
    replay_weight: Rate = 1.0

    _own: dict[str, PreferenceLoss] = PrivateAttr(default_factory=dict)  # by their references

    @field_validator("loss")
    @classmethod
    def _known_names(cls, value: str | dict[str, Any] | PreferenceLoss) -> Any:
        names = [value] if isinstance(value, str) else value if isinstance(value, dict) else ()
        for name in names:
            if name not in PREFERENCE_LOSSES and not is_reference(name):
                raise ValueError(unknown_name("preference loss", name, PREFERENCE_LOSSES))
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_reference(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("reference") is not None:
            return values
        decay = values.get("reference_ema_decay", 1.0)
        if isinstance(decay, int | float) and decay < 1:
            return {**values, "reference": "ema"}
        loss, options = values.get("loss", cls.model_fields["loss"].default), values.get("loss_options", {})
        try:
            needs_reference = preference_loss(loss, **options).needs_reference
        except (ConfigError, TypeError, AttributeError):
            return values  # said below
        return values if needs_reference else {**values, "reference": "none"}

    def preference_loss(self) -> PreferenceLoss:
        options = self.loss_options
        return preference_loss(self.loss, margin_weighted=self.margin_weighted, own=self._own, **options)

    @model_validator(mode="after")
    def _loss_exists(self) -> PreferenceSettings:
        try:  # one's own losses are loaded here, while it is known where the plan lies
            names = [self.loss] if isinstance(self.loss, str) else self.loss
            own = filter(is_reference, names) if isinstance(names, list | dict) else ()
            self._own.update({name: loss_named(name) for name in own})
            loss = self.preference_loss()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        self._check_reference(loss)
        if self.ld_alpha < 1 and self.nll_weight:
            raise ValueError(
                f"ld_alpha {self.ld_alpha} lowers the weight of long responses' ends, but nll_weight "
                f"{self.nll_weight} counts them in full; leave one of them out"
            )
        if loss.needs_whole_batch and (self.micro_batch_size or self.batch_size) < self.batch_size:
            raise ValueError(
                f"{loss.name} compares all pairs of a step, so micro_batch_size {self.micro_batch_size} "
                f"cannot be smaller than batch_size {self.batch_size}; leave it out, or take a smaller batch"
            )
        return self

    def _check_reference(self, loss: PreferenceLoss) -> None:
        if loss.needs_reference != (self.reference != "none"):
            needs = "needs a reference" if loss.needs_reference else "is defined without a reference"
            remedy = "stage_start, for one" if loss.needs_reference else "none"
            raise ValueError(f"loss {loss.name} {needs}, but reference is {self.reference}; take {remedy}")
        decay, every = self.reference_ema_decay, self.reference_refresh_every
        if (self.reference == "ema") != (decay < 1):
            raise ValueError(
                f"reference is {self.reference} and reference_ema_decay {decay}; a moving average has a "
                "decay below 1 (0.99, say), and nothing else has one"
            )
        if (self.reference == "refresh") != (every is not None):
            raise ValueError(
                f"reference is {self.reference} and reference_refresh_every {every}; reference refresh needs "
                "a number of steps, and nothing else has one"
            )
