"""Tokenizers that know no end, another vocabulary, or give other text back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.text import HuggingFaceCodec, example_from_text
from tests.bad_input.models import HERE, _with_codec
from tests.bad_input.table import Case, World, cases, check, stage
from tests.test_text_huggingface import LLAMA, byte_level_tokenizer, ids_of


def codec(name: str, base: str = "text", **changes: Any) -> Any:
    return lambda world: world.plan(stage(base, **changes), model=f"{HERE}:{name}")


def given(name: str, base: str = "seed") -> Any:
    """The same with data in a file, which is read before the run begins."""

    def make(world: World) -> Any:
        rows = '{"prompt": "why?", "response": " is the answer"}\n' * 3
        return world.plan(stage(base, data=world.file("rows.jsonl", rows)), model=f"{HERE}:{name}")

    return make


CASES = [
    Case(
        "ids are beyond the vocabulary",
        given("shifted_codec"),
        ("'why?'", "319", "0 to 255", "belongs to this model"),
    ),
    Case(
        "a tokenizer is of another model",
        given("other_tokenizer"),
        ("'why? is the answer'", "0 to 255", "belongs to this model"),
    ),
    Case(
        "the end is beyond the vocabulary",
        given("large_end_codec"),
        ("eos_id is 256", "0 to 255", "end of sequence"),
    ),
    Case("encode gives fractions", given("fractional_codec"), ("'why?'", "119.5", "whole numbers")),
    Case("ids are rows of rows", given("square_codec"), ("'why?'", "(1, 4)", "one row of ids")),
    Case(
        "encode gives nothing",
        given("silent_codec"),
        ("tokenizer_encode failed on 'why?'", "one-dimensional tensor"),
    ),
    Case(
        "encode raises",
        given("refusing_codec"),
        ("tokenizer_encode failed on 'why?'", "ValueError", "every text"),
    ),
    Case(
        "encode gives no ids",
        codec("empty_codec"),
        ("prompt 0", "'what of sun?'", "no tokens", "take it out"),
    ),
    Case(
        "there is no tokenizer for texts",
        given("no_codec"),
        ("no tokenizer", "tokenizer_encode and tokenizer_decode"),
    ),
    Case(
        "there is no tokenizer for prompts", codec("no_codec"), ("'text'", "no tokenizer", "tokenizer_encode")
    ),
    Case(
        "decode gives bytes",
        codec("byte_decoding_codec"),
        ("tokenizer_decode failed", "returned bytes, not str"),
    ),
    Case(
        "decode refuses ids",
        codec("strict_codec"),
        ("tokenizer_decode failed on the", "every row of ids"),
        DataError,
        late=True,
    ),
]


@cases(CASES)
def test_a_tokenizer_that_does_not_fit_is_refused_in_words(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def said(tmp_path: Path, capsys: pytest.CaptureFixture[str], **arguments: Any) -> str:
    """What a run with that codec tells its user."""
    model, codec = _with_codec(**arguments)
    plan = World(tmp_path).plan(stage("text"), model=model, tokenizer=codec)
    assert run(plan, reporter=Reporter())["status"] == "completed"
    return capsys.readouterr().out


def test_a_tokenizer_without_an_end_is_told_once_with_what_it_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(said(tmp_path, capsys, eos_id=None).split())
    assert text.count("the tokenizer names no end-of-sequence token") == 1
    assert "no response ends before its budget is used up" in text
    assert "eos_id" in text


def test_a_tokenizer_that_gives_other_text_back_is_told_with_both_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upper = said(tmp_path, capsys, decode=lambda ids: bytes(ids.tolist()).decode("latin-1").upper())
    text = " ".join(upper.split())
    assert "gives 'WHAT OF SUN?' back for 'what of sun?'" in text
    assert "look at its encode and decode" in text


def test_a_tokenizer_that_is_right_is_not_talked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "tokenizer" not in said(tmp_path, capsys)


def test_an_end_that_is_the_padding_too_carries_loss() -> None:
    tokenizer = byte_level_tokenizer(None, pad_token="<|endoftext|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    example = example_from_text(HuggingFaceCodec(tokenizer), "why?", "yes")
    assert example.ids[-1] == tokenizer.eos_token_id
    assert example.is_target[-1]


def test_a_beginning_that_template_and_tokenizer_both_write_stands_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_tokenizer(LLAMA, bos_token="<|begin|>")
    (begin,) = ids_of(tokenizer, "<|begin|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    example = example_from_text(HuggingFaceCodec(tokenizer), "why?", "yes")
    assert example.ids.tolist().count(begin) == 1


def test_a_tokenizer_of_the_hub_without_an_end_has_none_to_write() -> None:
    tokenizer = byte_level_tokenizer(None, eos_token=None)
    codec = HuggingFaceCodec(tokenizer)
    assert codec.eos_ids == ()
    assert codec.response_ids("why?", "yes") == codec.continuation_ids("yes")
