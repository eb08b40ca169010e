"""What can be told of a plan's models without loading one: shapes, and the tokenizer where it is here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from self_rewarding_lm_pytorch.config import Plan
from self_rewarding_lm_pytorch.errors import SelfRewardingError
from self_rewarding_lm_pytorch.models.adapters import is_adapter_folder, is_path
from self_rewarding_lm_pytorch.models.load import codec_for, model_factory
from self_rewarding_lm_pytorch.models.outline import Outline, outline_of
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.weights import refuse_pickles
from self_rewarding_lm_pytorch.objects import folder_near
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
    here = _folder(name, plan.base)
    if ":" in name and here is None:
        try:
            model_factory(name)
        except SelfRewardingError as error:
            found.problems.append(str(error))
        else:
            found.unseen.append(f"model {name!r} was not made, so memory and tokens are not known")
        return KnownModel(codec=_codec(plan, None, found))
    if here is None and is_path(name):
        found.problems.append(f"model {missing_folder(name)}")
        return KnownModel()
    if here is not None and not any(
        (here / each).is_file() for each in ("config.json", "adapter_config.json")
    ):
        found.problems.append(f"model {name!r} is a folder without config.json; save_pretrained writes one")
        return KnownModel()
    return _of_transformers(plan, name, str(here or name), found)


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
    if not isinstance(name, str) or (":" in name and _folder(name, base) is None):
        return None
    try:
        return local_outline(str(_folder(name, base) or name))
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


def _folder(name: str, base: Path | None) -> Path | None:
    place = Path(folder_near(name, base))
    return place if place.is_dir() else None
