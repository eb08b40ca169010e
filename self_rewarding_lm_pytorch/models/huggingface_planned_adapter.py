"""A Hugging Face model with the adapter that a plan asks for: made, carried or merged between stages."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.huggingface import HuggingFacePolicy, no_progress_bars
from self_rewarding_lm_pytorch.models.huggingface_adapters import AdapterPolicy
from self_rewarding_lm_pytorch.models.weights import refuse_pickles

_MARK = "_planned_adapter"  # of a module whose adapter is a plan's, in its __dict__


class PlannedAdapterPolicy(AdapterPolicy):
    """`save` writes the adapter, or, where it is merged, the whole model with the adapter in its weights.

    `restore` takes either: an adapter's folder, or a whole model's, with which the adapter begins anew. So a
    merged run's next stage begins from its checkpoint with an adapter that changes nothing. A new adapter is
    a function of the seed, the settings and the model, the same in every process.
    """

    is_merged = False
    base: str | Path | None = None
    """Where the model without its adapter is: a hub name, or a folder. A Path is written relative to the
    adapter's folder, for a base that moves with its run; None where it is nowhere yet."""
    _seed = 0
    _knows_base = True  # whether the model below the adapter is the run's, not only one of its kind

    @classmethod
    def new(
        cls,
        module: Any,
        tokenizer: Any,
        arguments: Mapping[str, Any],
        *,
        seed: int,
        is_merged: bool,
        base: str | Path | None,
    ) -> PlannedAdapterPolicy:
        """arguments: of peft's LoraConfig. Raises ConfigError for what this model has no place for."""
        module = _without_old_adapter(module)
        _check_names(module, arguments)
        if getattr(module, "is_quantized", False):
            if is_merged:
                raise ConfigError(
                    "the model was saved quantized, and each merge would round it anew; take between_stages: "
                    "carried, or name the unquantized model"
                )
            # Layers are computed again where a stage asks for it, so not by peft's own switch here.
            module = prepare_model_for_kbit_training(module, use_gradient_checkpointing=False)
        try:
            adapted = _with_adapter(module, LoraConfig(**arguments), seed)
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split())[:400]
            raise ConfigError(f"the adapter cannot be put into a {type(module).__name__}: {said}") from error
        vars(module)[_MARK] = adapted
        if getattr(module, "is_quantized", False):
            adapted.register_load_state_dict_pre_hook(_drop_base)
            adapted.register_load_state_dict_post_hook(_miss_no_base)
        policy = cls(adapted.eval(), tokenizer)
        policy.is_merged, policy.base, policy._seed = is_merged, base, seed
        policy._knows_base = not isinstance(base, Path)
        if is_merged:
            policy._check_tied()
        return policy

    @property
    def begins_anew(self) -> bool:
        """Whether each stage begins with an adapter that changes nothing."""
        return self.is_merged

    def _check_tied(self) -> None:
        ends = (self.model.get_input_embeddings(), self.model.get_output_embeddings())
        is_adapted = any(isinstance(end, BaseTunerLayer | AuxiliaryTrainingWrapper) for end in ends)
        if is_adapted and getattr(self.model.config.get_text_config(), "tie_word_embeddings", False):
            raise ConfigError(
                "the adapter trains an embedding that the model uses for its input and its output alike, so "
                "it cannot be merged and leave them one; take it out of target_modules and modules_to_save, "
                "or take between_stages: carried"
            )

    def copy(self) -> PlannedAdapterPolicy:
        twin = super().copy()
        assert isinstance(twin, PlannedAdapterPolicy)
        twin.is_merged, twin.base, twin._seed = self.is_merged, self.base, self._seed
        twin._knows_base = self._knows_base
        return twin

    def save(self, folder: Path) -> None:
        if self.is_merged:
            self._save_whole(folder, merged_model(self.module))
            return
        name = os.path.relpath(self.base, folder) if isinstance(self.base, Path) else self.base
        for config in self.module.peft_config.values():
            config.base_model_name_or_path = name
        super().save(folder)

    def save_base(self, folder: Path) -> None:
        """The whole model without its adapter."""
        self._save_whole(folder, copy.deepcopy(self.module).unload())
        self._knows_base = True

    def _save_whole(self, folder: Path, model: Any) -> None:
        vars(model).pop(_MARK, None)
        HuggingFacePolicy(model, self.tokenizer).save(folder)

    def restore(self, folder: Path) -> None:
        if not (folder / "adapter_config.json").is_file():
            self._restore_base(folder)
            return
        if not self._knows_base and isinstance(self.base, Path) and self.base.is_dir():
            self._restore_base(self.base)
        super().restore(folder)

    def _restore_base(self, folder: Path) -> None:
        """The model below the adapter from a whole model's folder, and a new adapter."""
        refuse_pickles(folder)
        try:
            with no_progress_bars():
                saved = type(self.model).from_pretrained(
                    folder, dtype=self.model.dtype, use_safetensors=True, local_files_only=True
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{folder} cannot be read as a {type(self.model).__name__}: {error}"
            ) from error
        names = {_plain(name): name for name in self.model.state_dict() if not _is_adapters(name)}
        _copy(saved.state_dict(), self.model.state_dict(), names, folder)
        (name,) = self.module.peft_config
        config = copy.deepcopy(self.module.peft_config[name])
        config.base_model_name_or_path = None
        twin = AdapterPolicy(_with_adapter(saved, config, self._seed))
        fresh = twin._saved("default")
        _copy(fresh, self._saved(name), {key: key for key in fresh}, folder)
        self._knows_base = True


def _copy(source: dict[str, Tensor], target: dict[str, Tensor], names: dict[str, str], folder: Path) -> None:
    """names: of the source's tensors in the target; all of the source's. Nothing is copied unless all fit."""
    wrong = [name for name in {**names, **source} if name not in names or name not in source]
    wrong += [n for n, place in names.items() if n in source and source[n].shape != target[place].shape]
    if wrong:
        raise CheckpointError(
            f"{folder} does not fit this model ({', '.join(wrong[:5])}); name a checkpoint of the same model"
        )
    with torch.no_grad():
        for name, place in names.items():
            target[place].copy_(source[name])


def _with_adapter(module: Any, config: LoraConfig, seed: int) -> PeftModel:
    """A new adapter, the same for the same seed."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that ends
        torch.manual_seed(seed)
        adapted: PeftModel = get_peft_model(module, config)
        return adapted


def merged_model(adapted: Any) -> Any:
    """The Hugging Face model with the adapter in its weights: a copy, in memory of its own.

    Raises ConfigError where the weights are quantized, or hold what is no number once merged.
    """
    twin = copy.deepcopy(adapted)
    base = twin.get_base_model()
    if getattr(base, "is_quantized", False):
        raise ConfigError("the model is quantized, and merging would round it anew; load it whole first")
    try:
        with no_progress_bars():
            model = twin.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ConfigError(f"the adapter cannot be merged: {error}") from error
    config = model.config.get_text_config()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if getattr(config, "tie_word_embeddings", False) and not torch.equal(ends[0].weight, ends[1].weight):
        config.tie_word_embeddings = model.config.tie_word_embeddings = False  # one of the two was trained
    vars(model).pop(_MARK, None)
    return model.requires_grad_(True)


def _without_old_adapter(module: nn.Module) -> nn.Module:
    """The module as a plain one that computes the same, where a plan gave it an adapter before.

    A run that is gone on with reads its first weights from its folder; another one begins from what this
    module has learned, as it does without adapters.
    """
    if isinstance(module, PeftModel):
        raise ConfigError(
            "the model has an adapter already, and the plan's adapter would be a second one; leave `adapter` "
            "out to train the one that is there, or merge it first (self-rewarding-lm merge)"
        )
    before: PeftModel | None = vars(module).pop(_MARK, None)
    if before is None:
        return module
    with no_progress_bars():
        plain: nn.Module = before.merge_and_unload()
        return plain.requires_grad_(True)


def _check_names(module: nn.Module, arguments: Mapping[str, Any]) -> None:
    """peft passes over a name that it does not find, as long as it finds another."""
    known = [name for name, _ in module.named_modules()]
    for setting in ("target_modules", "modules_to_save"):
        names = arguments.get(setting) or []
        for wanted in names if isinstance(names, list) else []:
            if not any(name == wanted or name.endswith(f".{wanted}") for name in known):
                last = sorted({name.rpartition(".")[2] for name in known} - {""})
                some = ", ".join(name for name in last if not name.isdigit())
                raise ConfigError(
                    f"adapter: {setting} names {wanted!r}, which a {type(module).__name__} does not have; "
                    f"its modules are called {some:.300}"
                )


def _is_adapters(name: str) -> bool:
    return "lora_" in name or ".modules_to_save." in name


def _plain(name: str) -> str:
    """A tensor's name in the model without adapter."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _drop_base(module: nn.Module, state: dict[str, Tensor], *rest: Any) -> None:
    """bitsandbytes' weights do not go back from a state dict; they never change, so they need not."""
    for name in [name for name in state if not _is_adapters(name)]:
        del state[name]


def _miss_no_base(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if _is_adapters(name)]
