"""Hugging Face decoder models."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging as hf_logging

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.caches import Cache
from self_rewarding_lm_pytorch.models.forks import seen_from
from self_rewarding_lm_pytorch.models.huggingface_caches import HuggingFaceOwnCache, HuggingFaceSharedCache
from self_rewarding_lm_pytorch.models.huggingface_recomputing import can_recompute, recomputed_layers
from self_rewarding_lm_pytorch.models.policy import Policy, no_recomputing


class HuggingFacePolicy(Policy):
    """Any `AutoModelForCausalLM`; saved as a folder that `from_pretrained` loads."""

    family = "huggingface"
    module: Any
    vocab_size: int

    def __init__(self, module: Any, tokenizer: Any = None) -> None:
        self.module = module
        self.tokenizer = tokenizer
        config: Any = self.model.config.get_text_config()
        self.max_length = getattr(config, "max_position_embeddings", None)
        self.vocab_size = config.vocab_size
        self.takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        self._is_head_plain: bool | None = None  # known once it has been tried

    @property
    def model(self) -> Any:
        """The causal language model itself, which adapters wrap."""
        return self.module

    def features(self, ids: Tensor) -> Tensor:
        if self.has_plain_head:
            hidden: Tensor = self.model.base_model(ids, use_cache=False).last_hidden_state
            return hidden
        logits: Tensor = self.model(ids, use_cache=False).logits
        return logits

    def forked_features(self, ids: Tensor, positions: Tensor, branches: Tensor) -> Tensor:
        arguments: dict[str, Any] = {
            "position_ids": positions,
            "attention_mask": self._forked_mask(positions, branches),
            "use_cache": False,
        }
        if self.has_plain_head:
            hidden: Tensor = self.model.base_model(ids, **arguments).last_hidden_state
            return hidden
        logits: Tensor = self.model(ids, **arguments).logits
        return logits

    def _forked_mask(self, positions: Tensor, branches: Tensor) -> Any:
        """transformers passes on a mask of four dimensions as it is; one for each kind of layer."""
        config: Any = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ())
        if not kinds:
            kinds = {"full_attention" if window is None else "sliding_attention"}
        windows = {"full_attention": None, "sliding_attention": window}
        if not self.takes_positions or kinds - set(windows):
            raise NotImplementedError(f"rows that fork in {type(self.model).__name__}")
        seen = {kind: seen_from(positions, branches, windows[kind]) for kind in kinds}
        if config._attn_implementation == "eager":  # it adds the mask to the scores
            seen = {kind: mask.logical_not() * torch.finfo(torch.float32).min for kind, mask in seen.items()}
        elif config._attn_implementation != "sdpa":
            raise NotImplementedError(f"a mask for {config._attn_implementation}")
        return seen if len(seen) > 1 else seen.popitem()[1]

    def head(self, features: Tensor) -> Tensor:
        if self.has_plain_head:
            logits: Tensor = self.model.get_output_embeddings()(features)
            return logits
        return features

    @property
    def has_plain_head(self) -> bool:
        """Whether the logits are nothing but the output layer of the last hidden state.

        Families scale their logits under many names, so it is tried, once, on a few tokens. A cap that
        small logits hardly feel would pass that, so caps are looked for by name.
        """
        if self._is_head_plain is None:
            self._is_head_plain = self._try_plain_head()
        return self._is_head_plain

    def _try_plain_head(self) -> bool:
        base, output = self.model.base_model, self.model.get_output_embeddings()
        capped = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        if base is self.model or not isinstance(output, nn.Module) or capped is not None:
            return False
        ids = (torch.arange(1, 7, device=self.device) * 7 % self.vocab_size)[None]
        with self.evaluating():
            hidden = base(ids, use_cache=False)[0]
            if hidden.ndim != 3 or hidden.shape[-1] != getattr(output, "in_features", hidden.shape[-1]):
                return False
            whole, split = self.model(ids, use_cache=False).logits, output(hidden)
            tolerance = 1e-3 if whole.dtype in (torch.float32, torch.float64) else 2e-2
            off = (whole - split).abs().max()
            return bool(off <= tolerance * whole.abs().max())

    def cache_kinds(self) -> tuple[type[Cache], ...]:
        return (HuggingFaceSharedCache, HuggingFaceOwnCache)

    def check_recomputing(self) -> None:
        if not can_recompute(self.model):
            raise ConfigError(no_recomputing(type(self.model).__name__))

    @contextmanager
    def recomputing(self, wanted: bool) -> Iterator[None]:
        with super().recomputing(wanted), recomputed_layers(self.model) if wanted else nullcontext():
            yield

    def restore(self, folder: Path) -> None:
        try:
            super().restore(folder)
        except CheckpointError as error:
            # Some families (mixtures of experts) are saved under other names than they train under.
            try:
                with no_progress_bars():
                    saved = type(self.module).from_pretrained(folder, dtype=self.module.dtype)
                self.module.load_state_dict(saved.state_dict())
            except (OSError, RuntimeError, ValueError):
                raise error from None

    def copy(self) -> HuggingFacePolicy:
        twin = copy.deepcopy(self.module).eval().requires_grad_(False)
        other = type(self)(twin, self.tokenizer)
        other.autocast = self.autocast
        return other

    def save(self, folder: Path) -> None:
        with no_progress_bars():
            self.module.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers draws a bar for each file it reads or writes; ours would be torn by it."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
