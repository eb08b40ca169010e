"""Any nn.Module from token ids (B, T) to logits (B, T, V)."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.weights import save_weights


class PlainPolicy(Policy):
    """The widest door: needs nothing but `module(ids) -> logits`, and so has no cache."""

    family = "plain"

    def __init__(
        self, module: nn.Module, *, max_length: int | None = None, vocab_size: int | None = None
    ) -> None:
        self.module = module
        self.max_length = max_length or _integer(module, ("max_seq_len", "max_length"))
        self.vocab_size = vocab_size or _integer(module, ("num_tokens", "vocab_size"))

    def features(self, ids: Tensor) -> Tensor:
        try:
            out = self.module(ids)
        except IndexError as error:  # of an embedding, whose size nobody has told us
            raise ConfigError(
                f"the model failed on ids of shape {tuple(ids.shape)}, the largest of them {int(ids.max())}: "
                f"{error}. It reads fewer positions or knows fewer tokens, and does not say so: give it the "
                "attributes max_seq_len and num_tokens"
            ) from error
        if not isinstance(out, Tensor) or out.ndim != 3 or out.shape[:2] != ids.shape:
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ConfigError(
                f"the model turned ids of shape {tuple(ids.shape)} into {shape}; expected logits of "
                f"shape {(*ids.shape, 'vocabulary')}. Wrap it in a module that returns logits."
            )
        return out

    def copy(self) -> PlainPolicy:
        twin = copy.deepcopy(self.module).eval().requires_grad_(False)
        other = PlainPolicy(twin, max_length=self.max_length, vocab_size=self.vocab_size)
        other.autocast = self.autocast
        return other

    def save(self, folder: Path) -> None:
        save_weights(self.module, folder / "model.safetensors")


def _integer(module: nn.Module, names: tuple[str, ...]) -> int | None:
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
