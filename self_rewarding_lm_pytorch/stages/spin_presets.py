"""SPIN's settings: the published numbers as presets, and training settings that change with the iteration.

Sources: the paper (2401.01335v3) and the authors' repository. The paper's text does not state its schedule,
so both presets take the repository's, linear to 0; neither speaks of dropout, so the model's own counts.
Both computed in bfloat16, which a whole plan says: `accelerate: {mixed_precision: bf16}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from self_rewarding_lm_pytorch.registry import unknown_name
from self_rewarding_lm_pytorch.stages.dpo import PairTraining
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings


class SPINTraining(PairTraining):
    """beta is the paper's lambda; reference stage_start is the iterate that an iteration starts from."""

    loss: str = "spin"
    epochs: int = Field(default=2, ge=1)


class OpponentSettings(SamplingSettings):
    """How the frozen opponent answers."""

    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


_TRAIN: dict[str, Any] = {
    "optimizer": "rmsprop",
    "weight_decay": 0.0,
    "batch_size": 64,
    "warmup_fraction": 0.1,
    "schedule": "linear",
    "learning_rate": 5e-7,
    "end_learning_rate": 0.0,
    "beta": 0.1,
    "dropout": None,
}
_PER_ITERATION: list[dict[str, Any]] = [
    {"learning_rate": 5e-7, "beta": 0.1},
    {"learning_rate": 5e-7, "beta": 0.1},
    {"learning_rate": 1e-7, "beta": 0.1},
    {"learning_rate": 1e-7, "beta": 5.0},
]
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "num_iterations": 4,
        "mix_previous": True,
        "max_seq_len": 2048,
        "opponent": {"temperature": 1.0, "top_p": None},  # its own distribution
        "train": {**_TRAIN, "epochs": 2},
    },
    "repo": {
        "num_iterations": 4,
        "mix_previous": True,
        "max_seq_len": 1024,
        "max_prompt_tokens": 512,
        # transformers' generate as it comes: greedy, unless the model's own configuration says otherwise.
        "opponent": {"temperature": 0.0, "top_p": None, "max_new_tokens": 256},
        "train": {**_TRAIN, "epochs": 6},  # "stop as needed"
    },
}
_INSTEAD = {
    "epochs": "num_steps",
    "num_steps": "epochs",
    "warmup_steps": "warmup_fraction",
    "warmup_fraction": "warmup_steps",
}
"""Two ways of saying one thing: who says one takes the other back."""


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """A stage's settings over those of its preset; training settings must stand in `train` already.

    What `train` says of a setting holds for all iterations. A settings object says everything itself.
    """
    name = values.get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        return values  # none, or an unknown one, which its field refuses
    merged = {**PRESETS[name], **values}
    for part in ("train", "opponent"):
        if isinstance(own := values.get(part, {}), Mapping):
            merged[part] = overridden(PRESETS[name][part], own)
    train, count = values.get("train", {}), merged["num_iterations"]
    if "per_iteration" not in values and isinstance(train, Mapping) and isinstance(count, int):
        merged["per_iteration"] = [
            {key: value for key, value in entry.items() if key not in train}
            for entry in _PER_ITERATION[: max(0, count)]
        ]
    return merged


def overridden(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `below`."""
    kept = {key: value for key, value in below.items() if own.get(_INSTEAD.get(key, "")) is None}
    return {**kept, **own}


def iteration_settings(train: SPINTraining, own: Mapping[str, Any]) -> SPINTraining:
    """`train` with one iteration's own settings; raises pydantic's ValidationError."""
    return type(train).model_validate(overridden(dict(train), own))


def resolved_iterations(entries: Sequence[Mapping[str, Any]], train: SPINTraining) -> list[dict[str, Any]]:
    """Each iteration's own settings, checked together with `train`; raises ValueError.

    An end rate that is not given keeps its ratio to the peak.
    """
    made = []
    for number, entry in enumerate(entries, 1):
        for key in entry:
            if key not in SPINTraining.model_fields:
                what = f"training setting of per_iteration, iteration {number}:"
                raise ValueError(unknown_name(what, key, SPINTraining.model_fields))
        own, rate = dict(entry), entry.get("learning_rate")
        if isinstance(rate, int | float) and own.get("end_learning_rate") is None:
            end = train.end_learning_rate or 0.0
            own["end_learning_rate"] = end * (rate / train.learning_rate) if end else 0.0
        try:
            iteration_settings(train, own)
        except ValidationError as error:
            raise ValueError(f"per_iteration, iteration {number}: {_in_words(error)}") from error
        made.append(own)
    return made


def _in_words(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        lines.append(f"{place}={problem['input']!r:.80}: {problem['msg']}" if place else problem["msg"])
    return "; ".join(lines)
