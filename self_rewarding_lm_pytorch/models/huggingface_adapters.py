"""Hugging Face models with an adapter (LoRA and its kin). Imports peft, as the file for planned ones does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import Tensor

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.huggingface import HuggingFacePolicy, no_progress_bars
from self_rewarding_lm_pytorch.models.weights import read_weights, refuse_pickles

_ROUNDING = 1e-5
"""Of the largest logit. DoRA scales weights to the norm that they have: no change but for rounding."""


class AdapterPolicy(HuggingFacePolicy):
    """A `peft.PeftModel` around an `AutoModelForCausalLM`; saved as a folder that peft loads onto the base.

    peft puts its layers into the causal LM itself, so that features, head and caches are that model's.
    Raises ConfigError for an adapter that acts elsewhere, and where tensors train that peft does not save.
    """

    def __init__(self, module: Any, tokenizer: Any = None) -> None:
        _check_kind(module)
        super().__init__(module, tokenizer)
        self._check_saved()

    @property
    def model(self) -> Any:
        return self.module.get_base_model()

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The model with all its adapters switched off for a while."""
        flags = [(parameter, parameter.requires_grad) for parameter in self.module.parameters()]
        try:
            with self.module.disable_adapter():
                yield
        finally:
            for parameter, flag in flags:  # peft makes every tensor of an active adapter trainable
                parameter.requires_grad_(flag)

    def adapter_fault(self) -> str:
        outside = self._trained_without_adapter()
        if outside:
            return (
                f"{_some(outside)} of the model would train and stay in force with the adapter off, so the "
                "reference would move along; freeze them, name their modules in the adapter's "
                "modules_to_save, or take reference: stage_start"
            )
        change = self._change()
        if not change <= _ROUNDING:
            return (
                f"the adapter ({', '.join(self.module.active_adapters)}) already changes what the model "
                f"computes, by {change:.2g} of the largest value on a probe, so the model without it is not "
                "the policy that this stage starts from; take reference: stage_start, or begin with a new "
                "adapter"
            )
        return ""

    def _trained_without_adapter(self) -> list[str]:
        trained = {name for name, parameter in self.module.named_parameters() if parameter.requires_grad}
        with self.without_adapter():  # peft freezes what it switches off
            left = [name for name, parameter in self.module.named_parameters() if parameter.requires_grad]
        return [name for name in left if name in trained]

    def _change(self) -> float:
        """The largest change that the adapter makes to logits of a probe and to any token's embedding."""
        length = min(16, self.max_length or 16)
        ids = (torch.arange(8 * length, device=self.device) * 7919 % self.vocab_size).view(8, length)
        reads: list[Callable[[], Tensor]] = [partial(self.logits, ids)]
        # A probe reads a few tokens; those that an adapter has trained may be others.
        embed = self.model.get_input_embeddings()
        tokens = torch.arange(self.vocab_size, device=self.device)
        reads += [partial(embed, some) for some in tokens.split(4096)]
        changes = []
        with self.evaluating():
            for read in reads:
                whole = read()
                with self.without_adapter():
                    bare = read()
                changes.append((whole - bare).abs().max() / bare.abs().max().clamp(min=1e-12))
        return float(torch.stack(changes).max())

    def save(self, folder: Path) -> None:
        """The tokenizer and adapters as peft writes them: all but "default" in folders of their names."""
        self._check_saved()
        with no_progress_bars():
            self.module.save_pretrained(folder, save_embedding_layers=self._holds_embeddings())
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def _holds_embeddings(self) -> bool:
        """Whether the folder holds the embeddings below: where they are adapted, or not those of the base.

        Left to itself, peft would ask the hub for the base's configuration at each save.
        """
        for config in self.module.peft_config.values():
            targets = getattr(config, "target_modules", None)
            if not isinstance(targets, str) and any(
                name in (targets or ()) for name in EMBEDDING_LAYER_NAMES
            ):
                return True
            base = config.base_model_name_or_path
            try:
                known = type(self.model.config).from_pretrained(base, local_files_only=True) if base else None
            except (OSError, ValueError):
                known = None  # not on this machine
            if known is not None and known.get_text_config().vocab_size != self.vocab_size:
                return True
        return False

    def restore(self, folder: Path) -> None:
        for name in self.module.peft_config:
            path = (folder if name == "default" else folder / name) / "adapter_model.safetensors"
            state, own, known = read_weights(path), self._saved(name), self.module.state_dict()
            missing = [key for key in own if key not in state]
            # peft adds embeddings of the base where they are adapted; those must be this base's.
            unknown = [
                key
                for key, tensor in state.items()
                if key not in own and not (key in known and torch.equal(known[key].to(tensor), tensor))
            ]
            if missing or unknown:
                raise CheckpointError(
                    f"{path} does not fit the adapter {name!r}; missing: {missing[:5]}, unknown or "
                    f"of another base model: {unknown[:5]}. Build the adapter with the configuration beside "
                    "that file, on the same model."
                )
            try:
                set_peft_model_state_dict(self.module, {key: state[key] for key in own}, adapter_name=name)
            except RuntimeError as error:  # it lists the shapes
                raise CheckpointError(
                    f"{path} does not fit the adapter {name!r}: {error}. Build the adapter with the "
                    "configuration beside that file."
                ) from error

    def _saved(self, adapter: str) -> dict[str, Tensor]:
        """What peft saves of an adapter, in the memory of the model itself."""
        state: dict[str, Tensor] = get_peft_model_state_dict(
            self.module, adapter_name=adapter, save_embedding_layers=False
        )
        return state

    def _check_saved(self) -> None:
        held = {
            tensor.data_ptr() for name in self.module.peft_config for tensor in self._saved(name).values()
        }
        lost = [
            name
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad and parameter.data_ptr() not in held
        ]
        if lost:
            raise ConfigError(
                f"{_some(lost)} of the model would train, but an adapter's folder does not hold them, so "
                "checkpoints would lose them; freeze them (requires_grad_(False)), or name their modules in "
                "the adapter's modules_to_save"
            )


def put_on(module: Any, folder: Path, tokenizer: Any) -> AdapterPolicy:
    """The adapter of a folder on its base model, to be trained on. Raises ConfigError unless it fits."""
    refuse_pickles(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that ends
            adapted = PeftModel.from_pretrained(module, str(folder), is_trainable=True)
    except Exception as error:  # the library raises of many families
        raise ConfigError(
            f"the adapter {folder} cannot be put on its model: {' '.join(str(error).split()):.400}. Its "
            "base_model_name_or_path must name the model that it was trained on"
        ) from error
    policy = AdapterPolicy(adapted.eval(), tokenizer)
    policy.restore(folder)  # peft is content with a part of the weights
    return policy


def _check_kind(module: Any) -> None:
    if not isinstance(module, PeftModel) or not hasattr(module.get_base_model(), "get_output_embeddings"):
        raise ConfigError(
            f"the model is a {type(module).__name__} that peft made of something else than a Hugging Face "
            "model; give peft.get_peft_model(AutoModelForCausalLM, config)"
        )
    for name, config in module.peft_config.items():
        acts_outside = config.is_prompt_learning or config.peft_type in ("POLY", "XLORA")
        if acts_outside or getattr(config, "alora_invocation_tokens", None):
            raise ConfigError(
                f"the adapter {name!r} ({type(config).__name__}) acts on the model's inputs or depends on "
                "them as a whole, which forked rows and caches do not know; take LoRA or another adapter "
                "that acts in the layers"
            )
    if any(getattr(part, "merged", False) for part in module.modules()):
        raise ConfigError(
            "the adapter is merged into the model's weights, so training it would change nothing; call "
            "model.unmerge_adapter() first"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
