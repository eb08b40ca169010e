"""How a stage trains. One validated record, shared by every stage kind."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0)]


class TrainSettings(BaseModel):
    """Optimizer, schedule and batch of a stage. Steps are optimizer steps."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    END_FRACTION: ClassVar[float] = 0.1

    batch_size: Positive = 16  # items in one optimizer step, in all
    micro_batch_size: Positive | None = None  # items in one forward pass; default: the batch
    epochs: Positive = 1
    num_steps: Positive | None = None  # instead of epochs
    learning_rate: Rate = 1e-6  # at its peak
    end_learning_rate: Rate | None = None  # default: END_FRACTION of the peak
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    num_decay_steps: Positive | None = None  # default: all steps
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Rate = 0.0
    optimizer_kwargs: dict[str, Any] = Field(default_factory=dict)  # further AdamW arguments
    max_grad_norm: Rate | None = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # None: as the model was built
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


class PreferenceSettings(TrainSettings):
    """TrainSettings of a stage that trains on pairs."""

    loss: str = "dpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    nll_weight: Rate = 0.0  # of the chosen response's mean negative log-likelihood
    reference_ema_decay: Annotated[float, Field(ge=0, le=1)] = 1.0  # 1: the policy at stage start
    replay_batch_size: Annotated[int, Field(ge=0)] = 0  # supervised examples in each step
    replay_weight: Rate = 1.0
