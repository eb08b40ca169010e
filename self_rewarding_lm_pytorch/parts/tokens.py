"""Tokens with their texts, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from self_rewarding_lm_pytorch.text import Codec

TokenKind = Literal["", "bos", "eos", "special"]

_BEFORE = 8  # tokens in front of one whose text is asked for: enough for blanks and letters of several tokens


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a sequence. text: what it adds to the text; empty where a letter is not whole yet."""

    id: int
    text: str
    is_target: bool
    kind: TokenKind


def tokens_of(codec: Codec, ids: Sequence[int], is_target: Sequence[bool]) -> tuple[Token, ...]:
    """ids and mask, (T,) each, as tokens with their texts."""
    tokenizer = getattr(codec, "tokenizer", None)
    bos = getattr(tokenizer, "bos_token_id", None)
    special = set(getattr(tokenizer, "all_special_ids", ())) | set(
        getattr(tokenizer, "added_tokens_decoder", ())
    )
    kinds: list[TokenKind] = [
        "eos" if token in codec.eos_ids and (token != bos or place > 0)
        else "bos" if token == bos
        else "special" if token in special
        else ""
        for place, token in enumerate(ids)
    ]  # fmt: skip
    texts = _texts(codec, ids)
    return tuple(map(Token, ids, texts, is_target, kinds))


def rendered(codec: Codec, ids: Sequence[int]) -> str:
    """What the ids say, special tokens written out where the tokenizer can."""
    return _decoder(codec)(list(ids))


def warnings_of(codec: Codec, tokens: Sequence[Token], *, is_trained: bool) -> Iterator[str]:
    """What is probably not as it should be."""
    tokenizer = getattr(codec, "tokenizer", None)
    bos = getattr(tokenizer, "bos_token_id", None)
    count = sum(token.kind == "bos" for token in tokens)
    if count > 1:
        yield f"{count} beginning-of-sequence tokens; models are trained on one: look at the chat template"
    if bos is not None and bos not in codec.eos_ids and not count:
        yield (
            "no beginning-of-sequence token, though the tokenizer has one; right where the model was trained "
            "without it"
        )
    if not is_trained:
        return
    if not any(token.is_target for token in tokens):
        yield "no token carries loss, so nothing is learned from this"
    elif tokens[-1].kind != "eos" and not _ends_a_turn(tokens):
        yield "the response ends with no end-of-sequence token, so the model does not learn where to stop"


def _ends_a_turn(tokens: Sequence[Token]) -> bool:
    """Whether the last target is an end, which a template may write something behind."""
    return next((token.kind == "eos" for token in reversed(tokens) if token.is_target), False)


def _texts(codec: Codec, ids: Sequence[int]) -> list[str]:
    """Of each token, by what the text becomes longer with it; bytes of one letter stand at its last token."""
    decode = _decoder(codec)
    texts: list[str] = []
    first = 0  # of the letter or token whose text is not known yet
    for place in range(len(ids)):
        start = max(0, first - _BEFORE)
        before, whole = decode(list(ids[start:first])), decode(list(ids[start : place + 1]))
        is_open = whole.endswith("\ufffd") and place + 1 < len(ids) and place - first < 4
        if is_open or not whole.startswith(before):
            texts.append("" if is_open else decode([ids[place]]))
        else:
            texts.append(whole[len(before) :])
        first = first if is_open else place + 1
    return texts


def _decoder(codec: Codec) -> Callable[[list[int]], str]:
    tokenizer: Any = getattr(codec, "tokenizer", None)
    if tokenizer is None:
        return partial(_decoded, codec)
    return partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _decoded(codec: Codec, ids: list[int]) -> str:
    """A codec of functions leaves ends out, so they are named."""
    parts: list[str] = []
    own: list[int] = []
    for token in ids:
        if token in codec.eos_ids:
            parts += [codec.decode(own) if own else "", f"<end:{token}>"]
            own = []
        else:
            own.append(token)
    return "".join([*parts, codec.decode(own) if own else ""])
