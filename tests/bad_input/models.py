"""Models, tokenizers and reward functions with one thing wrong; plans name them `HERE:NAME`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from self_rewarding_lm_pytorch.models.load import codec_for
from self_rewarding_lm_pytorch.text import FunctionCodec
from tests.bad_input.table import World
from tests.helpers import Recurrent, byte_codec
from tests.stages.worlds import hugging_face, plain
from tests.test_text_huggingface import byte_level_tokenizer

HERE = "tests.bad_input.models"


def with_context() -> tuple[nn.Module, Any]:
    """Says that it reads 128 positions and knows 256 tokens."""
    module: Any = plain()
    module.max_seq_len, module.num_tokens = 128, 256
    return module, byte_codec()


class Positions(Recurrent):
    """Reads 16 positions and does not say so."""

    def __init__(self) -> None:
        super().__init__(vocab=256, size=8)
        self.place = nn.Embedding(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + self.out(self.place(torch.arange(ids.shape[1]).expand_as(ids)))


class Changed(Recurrent):
    """Passes its logits on, changed."""

    def __init__(self, change: Any) -> None:
        super().__init__(vocab=256, size=8)
        self.change = change

    def forward(self, ids: Tensor) -> Any:
        return self.change(super().forward(ids))


def _made(module: nn.Module) -> tuple[nn.Module, Any]:
    return module, byte_codec()


def large() -> Any:
    torch.manual_seed(0)
    return _made(Recurrent(vocab=256, size=64))


def positions() -> Any:
    return _made(Positions())


def small_vocabulary() -> Any:
    return _made(Recurrent(vocab=90, size=8))  # 'y' is 121


def one_position() -> Any:
    return _made(Changed(lambda logits: logits[:, -1]))


def no_tensor() -> Any:
    return _made(Changed(lambda logits: {"logits": logits}))


def no_number() -> Any:
    return _made(Changed(lambda logits: logits * math.nan))


def infinite() -> Any:
    return _made(Changed(lambda logits: logits * math.inf))


def no_gradient() -> Any:
    return _made(Changed(lambda logits: logits.detach()))


def frozen() -> Any:
    return _made(plain().requires_grad_(False))


def failing() -> Any:
    raise ValueError("no such disk")


def number() -> Any:
    return 5


def random_in_evaluation() -> Any:
    return _made(Changed(lambda logits: logits + torch.randn(logits.shape)))


def hub_folder(world: World, name: str = "model", **tokenizer: Any) -> Path:
    """A folder as `save_pretrained` writes it, with a tokenizer of 320 tokens."""
    folder = world.given / name
    module: Any = hugging_face()
    module.resize_token_embeddings(320)
    module.save_pretrained(folder)
    byte_level_tokenizer(None, **tokenizer).save_pretrained(folder)
    return folder


def with_weights(world: World, change: Any) -> Path:
    """The same with its weights (name -> tensor) changed in place."""
    folder = hub_folder(world)
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def other_tokenizer() -> Any:
    """A model of 256 tokens and a tokenizer of 320."""
    module = hugging_face()
    return module, codec_for(byte_level_tokenizer(None), module)


def _with_codec(encode: Any = None, decode: Any = None, **arguments: Any) -> tuple[nn.Module, Any]:
    plain_encode, plain_decode = (
        (lambda text: list(text.encode())),
        (lambda ids: bytes(ids.tolist()).decode("latin-1")),
    )
    given = {"eos_id": 0, "vocab_size": 256, **arguments}
    return plain(), FunctionCodec(encode or plain_encode, decode or plain_decode, **given)


def shifted_codec() -> Any:
    return _with_codec(encode=lambda text: [byte + 200 for byte in text.encode()])


def fractional_codec() -> Any:
    return _with_codec(encode=lambda text: [byte + 0.5 for byte in text.encode()])


def square_codec() -> Any:
    return _with_codec(encode=lambda text: [list(text.encode())])


def silent_codec() -> Any:
    return _with_codec(encode=lambda text: None)


def refusing_codec() -> Any:
    return _with_codec(encode=lambda text: list(text.encode("ascii").index(b"!")))


def byte_decoding_codec() -> Any:
    return _with_codec(decode=lambda ids: bytes(ids.tolist()))


def strict_codec() -> Any:
    return _with_codec(decode=lambda ids: bytes(ids.tolist()).decode("ascii"))


def large_end_codec() -> Any:
    return _with_codec(eos_id=256)


def no_codec() -> Any:
    return plain(), None


def empty_codec() -> Any:
    return _with_codec(encode=lambda text: [])


def raises(prompts: list[str], responses: list[str]) -> list[float]:
    raise ZeroDivisionError("nothing to divide by")


def too_few(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0]


def words(prompts: list[str], responses: list[str]) -> list[str]:
    return ["4"] * len(responses)


def lists(prompts: list[str], responses: list[str]) -> list[list[float]]:
    return [[1.0, 2.0]] * len(responses)


def one_number(prompts: list[str], responses: list[str]) -> float:
    return 3.0


def always_one(prompts: list[str], responses: list[str]) -> list[float]:
    return [3.0] * len(responses)


def no_numbers(prompts: list[str], responses: list[str]) -> list[float]:
    return [math.nan] * len(responses)


def infinities(prompts: list[str], responses: list[str]) -> list[float]:
    return [math.inf] * len(responses)


def nothing(prompts: list[str], responses: list[str]) -> None:
    return None


def hangs(prompts: list[str], responses: list[str]) -> list[float]:
    while True:  # and swallows what it can
        try:
            time.sleep(60)
        except Exception:
            continue


not_a_function = 3
