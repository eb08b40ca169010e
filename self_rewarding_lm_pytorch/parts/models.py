"""A model by what people call it: a folder, a hub name, module:factory, a run, one of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.checkpoint_files import (
    check_in_its_run,
    is_model_folder,
    without_times,
)
from self_rewarding_lm_pytorch.models.of_runs import (
    INITIAL,
    PLAN_KEYS,
    FoundModel,
    found_model,
    no_model_in,
    stages_with_models,
)
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.pipeline.models import model
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.run_folder.model_files import model_notes, weights_hash
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.chat_settings import ChatSettings
from self_rewarding_lm_pytorch.text import Codec
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator


@dataclass(frozen=True)
class NamedModel:
    """Where a model is. plan: how it is built; weights: a checkpoint whose weights then go over it."""

    name: str
    plan: Plan
    weights: Path | None = None

    @property
    def source(self) -> str:
        """The folder, hub name or module:factory that is loaded."""
        return str(self.plan.model)

    def load(self, device: torch.device | str = "cpu") -> tuple[Policy, Codec]:
        """The model and its codec. Raises ConfigError, or CheckpointError for altered files.

        device: where quantized weights are put, which cannot be moved; others are on the CPU.
        """
        if self.weights is not None:
            check_in_its_run(self.weights)
        policy, codec = model(self.plan, device)
        if codec is None:
            raise ConfigError(
                f"model {self.name!r} brings no tokenizer, so it can read and write no text; let its factory "
                "return (module, codec)"
            )
        if self.weights is not None:
            policy.restore(self.weights)
        return policy, codec

    def load_codec(self) -> tuple[Codec, int | None]:
        """The codec and the context in tokens (None: not known), without the weights.

        What a factory makes, and weights of that, are made whole. Raises ConfigError without a tokenizer.
        """
        place = Path(self.source)
        if (":" in self.source and not place.exists()) or (place.is_dir() and not is_model_folder(place)):
            policy, codec = self.load()
            return codec, policy.max_length
        from self_rewarding_lm_pytorch.models.huggingface_tokenizer import codec_of

        found, context = codec_of(self.source, trust_remote_code=self.plan.trust_remote_code)
        return (found if self.plan.chat is None else self.plan.chat.applied(found, None)), context

    def identity(self, policy: Policy) -> dict[str, Any]:
        """JSON that differs where what it writes may: hashes of weights or a hub's commit, its chat."""
        settings = self.settings()
        return {"model": self._weights(policy), "dtype": settings["dtype"], "chat": settings["chat"]}

    def settings(self) -> dict[str, Any]:
        """JSON of how it is built and read."""
        return self.plan.model_dump(mode="json", include=set(PLAN_KEYS))

    def _weights(self, policy: Policy) -> dict[str, Any]:
        place = self.weights or Path(self.source)
        if place.is_dir() and (is_model_folder(place) or any(place.glob("*.safetensors"))):
            return {"files": without_times(model_notes(place, None))}
        commit = getattr(getattr(policy.module, "config", None), "_commit_hash", None)
        return {"commit": commit} if commit is not None else {"weights": weights_hash(policy.module)}


def named_model(
    name: str, *, factory: str | None = None, dtype: str | None = None, chat_template: str | None = None
) -> NamedModel:
    """What a name means, without loading it.

    name: a folder that from_pretrained reads, a hub name, module:factory, a run folder (its last finished
        checkpoint), RUN:STAGE (also RUN:initial, the model as the run began), a checkpoint or stage folder.
    factory: module:factory for checkpoints that are weights alone, over what their run says.
    dtype: of the weights; None: as the run's plan says, else float32.
    chat_template: as a plan's chat.template, over what the run's plan says.
    Raises ConfigError for a folder that holds no model, and for a stage that the run does not have.
    """
    found = _found(name, factory)
    update: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if chat_template is not None:
        known = found.plan.chat or ChatSettings()
        update["chat"] = known.model_copy(update={"template": chat_template})
    return replace(found, plan=found.plan.model_copy(update=update))


def _found(name: str, factory: str | None) -> NamedModel:
    found = found_model(name)
    if found is not None:
        return _of(found, factory)
    if Path(name).is_dir():
        raise ConfigError(no_model_in(name))
    return NamedModel(name, _plan({"model": name}))


def models_of_run(
    run: Path, *, factory: str | None = None, dtype: str | None = None, with_initial: bool = False
) -> dict[str, NamedModel]:
    """The models of a run by their stages' names, in order, as `named_model` finds them.

    with_initial: the model as the run began, first. Raises ConfigError for a folder that is no run.
    """
    names = [*([INITIAL] if with_initial else []), *stages_with_models(run)]
    return {name: named_model(f"{run}:{name}", factory=factory, dtype=dtype) for name in names}


def environment_of(named: NamedModel, *, device: str, seed: int, reporter: Reporter) -> Environment:
    """The model on its device, in evaluation mode, as stages are given theirs."""
    accelerator = accelerator_on(device)
    policy, codec = named.load(accelerator.device)
    policy.module.to(accelerator.device).eval()
    policy.autocast = accelerator.autocast
    return Environment(policy, codec, seed, accelerator, reporter)


def accelerator_on(device: str) -> Accelerator:
    """Of a device as plans name it. Raises ConfigError for one that is not there."""
    return make_accelerator({}, device)


def _of(found: FoundModel, factory: str | None) -> NamedModel:
    """A folder that stands alone, or weights for what a factory (or the run's plan) builds."""
    name, plan, place = found.name, found.plan, found.place
    if place is None:
        return NamedModel(name, _plan({**plan, "model": factory or plan["model"]}))
    if found.is_whole and found.quantized is None:
        return NamedModel(name, _plan({**_standing_alone(plan), "model": str(place)}))
    builds = factory or found.builder
    if builds is None:
        raise ConfigError(
            f"{place} holds weights alone (its model or tokenizer came from Python), so it cannot be loaded "
            "by itself; name what builds the model: --model module:factory, a function that returns "
            "(module, codec)"
        )
    return NamedModel(name, _plan({**plan, "model": builds}), place)


def _standing_alone(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a checkpoint's own folder says: its adapter, its tokenizer's chat template."""
    kept = {key: value for key, value in plan.items() if key != "adapter"}
    if isinstance(kept.get("chat"), Mapping):
        kept["chat"] = {**kept["chat"], "template": None}
    return kept


def _plan(settings: Mapping[str, Any]) -> Plan:
    return Plan.model_validate({**settings, "stages": []})
