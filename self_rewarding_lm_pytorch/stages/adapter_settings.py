"""What a plan says of the adapter that is trained in the place of the model's own weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from self_rewarding_lm_pytorch.stages.base import Settings

BetweenStages = Literal["carried", "merged"]

_WAYS = (
    "carried: one adapter is trained on and on, and checkpoints hold the adapter alone; merged: as a stage "
    "ends its adapter is added to the weights, its checkpoint is a whole model, and the next stage begins "
    "with a new adapter"
)


class AdapterSettings(Settings):
    """LoRA (arXiv 2106.09685), or QLoRA (2305.14314) with `quantize`, through peft.

    Its weights are float32 whatever the dtype of the model's.
    """

    r: Annotated[int, Field(ge=1)] = 16
    """Rank. QLoRA (section 4) found it to matter little once all linear layers are adapted."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Updates are scaled by alpha / r, or by alpha / sqrt(r) with use_rslora. 2 r: common usage."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the adapter's inputs, where a stage's own `dropout` does not set it. At 0, the default, there is
    none whatever a stage says: a policy is compared with a reference that has none."""
    target_modules: Literal["auto"] | list[str] = "auto"
    """Names of the layers. auto: all linear ones but the output layer (QLoRA, section 4)."""
    use_rslora: bool = False  # arXiv 2312.03732: for ranks of 64 and above
    use_dora: bool = False  # arXiv 2402.09353: each layer's magnitude trains apart; slower
    modules_to_save: list[str] = Field(default_factory=list)  # modules that train whole, beside the adapter
    quantize: Literal["4bit", "8bit"] | None = None
    """The model's own weights: 4bit: NF4 with double quantization (QLoRA, section 3), 8bit: LLM.int8()."""
    between_stages: BetweenStages | None = None
    """What becomes of the adapter as a stage ends; a plan of several training stages must say it."""

    @model_validator(mode="after")
    def _can_be_merged(self) -> AdapterSettings:
        if self.quantize is not None and self.between_stages == "merged":
            raise ValueError(
                f"with quantize: {self.quantize} each merge would round the weights anew, which may lose "
                "what a stage has learned; take between_stages: carried and merge the last checkpoint into "
                "the unquantized model (self-rewarding-lm merge), or leave quantize out"
            )
        return self

    @property
    def is_merged(self) -> bool:
        return self.between_stages == "merged"

    def peft_arguments(self) -> dict[str, Any]:
        """The arguments of peft's LoraConfig."""
        return {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": "all-linear" if self.target_modules == "auto" else self.target_modules,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "modules_to_save": self.modules_to_save or None,
            "task_type": "CAUSAL_LM",
        }


def _said_between_stages(adapter: AdapterSettings | None, info: ValidationInfo) -> AdapterSettings | None:
    """Refuses a plan that leaves open what several stages do with the adapter; the two differ in results."""
    stages = info.data.get("stages", [])
    trained = [stage.name or stage.kind for stage in stages if hasattr(stage, "train")]
    if adapter is not None and adapter.between_stages is None and len(trained) > 1:
        raise ValueError(
            f"the plan trains in {len(trained)} stages ({', '.join(trained)}), and what the adapter does "
            f"between them must be said: adapter: {{between_stages: carried}} or merged. {_WAYS}"
        )
    return adapter


def _can_be_parted(adapter: AdapterSettings | None, info: ValidationInfo) -> AdapterSettings | None:
    if adapter is not None and adapter.quantize is not None and info.data.get("sharding") == "full":
        raise ValueError(
            "sharding: full parts weights that train or are of one type, and quantized ones are packed; "
            "leave sharding out (each process then holds the small quantized model), or leave quantize out"
        )
    return adapter


PlanAdapter = Annotated[
    AdapterSettings | None, AfterValidator(_said_between_stages), AfterValidator(_can_be_parted)
]
"""A plan's `adapter`, for a field that stands behind `stages` and `sharding`."""
