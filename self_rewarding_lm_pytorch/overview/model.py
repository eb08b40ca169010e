"""What can be told of a plan's models without loading one: shapes, and the tokenizer where it is here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.errors import ConfigError, SelfRewardingError
from self_rewarding_lm_pytorch.models.adapters import is_adapter_folder, is_path
from self_rewarding_lm_pytorch.models.checkpoint_files import is_model_folder
from self_rewarding_lm_pytorch.models.load import codec_for, model_factory
from self_rewarding_lm_pytorch.models.of_runs import found_model, model_source, no_builder, no_model_in
from self_rewarding_lm_pytorch.models.outline import Outline, outline_of
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.weights import refuse_pickles
from self_rewarding_lm_pytorch.pipeline.earlier import chat_left_behind, earlier_model, refuse_own_model
from self_rewarding_lm_pytorch.text import Codec

if TYPE_CHECKING:
    from self_rewarding_lm_pytorch.overview.plan import Overview


@dataclass(frozen=True)
class KnownModel:
    """None: not known here."""

    outline: Outline | None = None
    codec: Codec | None = None

    @property
    def context(self) -> int | None:
        return None if self.outline is None else self.outline.context


def known_model(plan: Plan, found: Overview) -> KnownModel:
    """The plan's own model; what is wrong with it, or not known, is put into `found`."""
    if isinstance(plan.model, Policy | nn.Module):
        module = plan.model.module if isinstance(plan.model, Policy) else plan.model
        return KnownModel(outline_of(module), _codec(plan, None, found))
    name = str(plan.model)
    try:
        source = _source(plan, name, found)
    except ConfigError as error:
        found.problems.append(str(error))
        return KnownModel()
    here = Path(source) if Path(source).is_dir() else None
    if here is not None and not is_model_folder(here):
        made = found_model(str(here))
        if made is None or made.builder is None:
            found.problems.append(f"model {no_model_in(name)}" if made is None else no_builder(here))
            return KnownModel()
        source, here = made.builder, None
    if ":" in source and here is None:
        try:
            model_factory(source)
        except SelfRewardingError as error:
            found.problems.append(str(error))
        else:
            found.unseen.append(f"model {name!r} was not made, so memory and tokens are not known")
        return KnownModel(codec=_codec(plan, None, found))
    if here is None and is_path(name):
        found.problems.append(f"model {missing_folder(name)}")
        return KnownModel()
    return _of_transformers(plan, name, source, found)


def _source(plan: Plan, name: str, found: Overview) -> str:
    """What is loaded. Which model of an earlier run it is, and what stays behind, is put into `found`."""
    earlier = earlier_model(name, plan.base)
    refuse_own_model(plan, earlier)
    if earlier is not None:
        found.read.append(earlier.said)
        if (left := chat_left_behind(plan, earlier)) is not None:
            found.warnings.append(left)
    return model_source(name, plan.base)


def missing_folder(name: str) -> str:
    return (
        f"{name!r} is no folder, beside the plan or in the working directory; correct it, or give a hub name "
        "(OWNER/NAME)"
    )


def other_outline(name: Any, base: Path | None) -> Outline | None:
    """Of a judging model, where it is here."""
    from self_rewarding_lm_pytorch.models.huggingface_outline import local_outline

    if isinstance(name, nn.Module):
        return outline_of(name)
    if not isinstance(name, str):
        return None
    try:
        source = model_source(name, base)
        is_made = ":" in source and not Path(source).is_dir()
        return None if is_made else local_outline(source)
    except SelfRewardingError:
        return None


def _of_transformers(plan: Plan, name: str, place: str, found: Overview) -> KnownModel:
    from self_rewarding_lm_pytorch.models.huggingface_outline import local_outline, local_tokenizer

    try:
        refuse_pickles(Path(place))
        outline, tokenizer = local_outline(place), local_tokenizer(place)
    except SelfRewardingError as error:
        found.problems.append(str(error))
        return KnownModel()
    if is_adapter_folder(Path(place)):
        found.unseen.append(
            f"model {name!r} is an adapter: memory and disk are told as if all its base trained"
        )
    if outline is None:
        found.unseen.append(
            f"model {name!r} was not loaded: its configuration is not on this machine, so memory is not known"
        )
    return KnownModel(outline, _codec(plan, tokenizer, found))


def _codec(plan: Plan, tokenizer: Any, found: Overview) -> Codec | None:
    given = tokenizer if plan.tokenizer is None else plan.tokenizer
    if given is None:
        return None
    try:
        codec = given if hasattr(given, "prompt_ids") else codec_for(given)
        return codec if plan.chat is None else plan.chat.applied(codec, plan.base)
    except SelfRewardingError as error:
        found.problems.append(str(error))
        return None
