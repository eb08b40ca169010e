"""Forced scores: drawn among the valid values after the literal prefix, compared to their end."""

import math
import re
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.forcing import ScoreForcer
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.seeds import address
from self_rewarding_lm_pytorch.text import FunctionCodec, HuggingFaceCodec
from tests.helpers import Script, Table, byte_codec

CODEC = byte_codec(eos_id=0)
CONTEXT = tuple(b"Rate it.\x01")  # byte 1: the script of `Script` begins behind it
PREFIX = b"\nScore: "


def forcer(policy: Policy, parser: ScoreParser | None = None, **arguments: Any) -> ScoreForcer:
    given = {"temperature": 1.0, **arguments}
    return ScoreForcer(policy, CODEC, parser or ScoreParser(), **given)


def scripted(text: bytes, **arguments: Any) -> ScoreForcer:
    return forcer(policy_for(Script(text)), **arguments)


def keys(count: int, name: str = "forced") -> list[int]:
    return [address(name, i) for i in range(count)]


@pytest.mark.parametrize("digit", [0, 3, 5])
def test_the_value_the_model_would_write_is_the_score(digit: int) -> None:
    assert scripted(PREFIX + b"%d" % digit).force([CONTEXT] * 4, keys(4)) == [digit] * 4


def test_a_value_outside_the_range_cannot_be_forced() -> None:
    """The model wants to write 9; of 0 to 5, all equally unlikely, each is drawn by its key."""
    drawn = scripted(PREFIX + b"9").force([CONTEXT] * 200, keys(200))
    assert set(drawn) == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(("digits", "expected"), [(b"10", 10), (b"1\n", 1), (b"7", 7)])
def test_one_and_ten_are_told_apart_by_how_they_go_on(digits: bytes, expected: int) -> None:
    """Without a range the values are 0 to 10, and "1" is a prefix of "10"."""
    made = scripted(PREFIX + digits, parser=ScoreParser(score_range=None))
    assert made.force([CONTEXT] * 3, keys(3)) == [expected] * 3


def test_scores_are_drawn_with_the_models_probabilities() -> None:
    """After "Score: " digits 0 to 5 have probabilities 1 : 2 : 3 : 4 : 5 : 6. Chi-square, 1 in a million."""
    table = torch.full((256, 256), -40.0, dtype=torch.float64)
    for digit in range(6):
        table[ord(" "), ord(str(digit))] = math.log(digit + 1)
    drawn = forcer(policy_for(Table(table))).force([(65,)] * 5_000, keys(5_000))
    counts = torch.bincount(torch.tensor(drawn).long(), minlength=6)
    assert chisquare(counts.numpy(), [5_000 * (d + 1) / 21 for d in range(6)]).pvalue > 1e-6


def test_temperature_0_takes_the_likeliest_value() -> None:
    table = torch.zeros(256, 256)
    table[ord(" "), ord("2")] = 0.1
    cold = forcer(policy_for(Table(table)), temperature=0.0)
    assert cold.force([(65,)] * 50, keys(50)) == [2.0] * 50


def test_a_draw_depends_on_its_key_and_context_alone() -> None:
    policy = policy_for(Table(torch.randn(256, 256, dtype=torch.float64)))
    contexts = [tuple(range(60, 62 + i % 5)) for i in range(20)]
    together = forcer(policy).force(contexts, keys(20))
    assert forcer(policy).force(contexts[::-1], keys(20)[::-1]) == together[::-1]
    assert [forcer(policy).force([c], [k])[0] for c, k in zip(contexts, keys(20), strict=True)] == together
    assert forcer(policy, use_cache=False).force(contexts, keys(20)) == together


@pytest.mark.parametrize(
    ("parser", "room"),
    [
        (ScoreParser(), 9),  # 8 bytes of "\nScore: " and one digit
        (ScoreParser(score_range=None), 10),  # and "10"
        (ScoreParser("Total = {{ reward }}"), 10),
    ],
)
def test_the_room_it_needs_behind_the_judges_text_is_known(parser: ScoreParser, room: int) -> None:
    assert forcer(policy_for(Script(b"")), parser).num_tokens == room


@pytest.mark.parametrize(
    "parser",
    [ScoreParser(None, parse_reward=lambda text: None), ScoreParser(r"Score\s*: {{ reward }}")],
    ids=["only a function", "no plain prefix"],
)
def test_a_judge_without_a_literal_prefix_cannot_be_forced(parser: ScoreParser) -> None:
    with pytest.raises(ConfigError, match=r"unparsed='force'.*use unparsed='drop'"):
        forcer(policy_for(Script(b"")), parser)


def test_a_tokenizer_that_joins_the_blank_to_the_digit_is_asked_in_its_own_way() -> None:
    """Tokens: 0 newline, 1 "Score:", 2 to 7 " 0" to " 5", 8 a lone blank, 9 to 14 lone digits.

    The model knows that " 4" follows "Score:"; after a lone blank it would write 0. Split by hand
    before the digit, the prefix would end in the lone blank.
    """
    names = ["\n", "Score:", *[f" {d}" for d in range(6)], " ", *[str(d) for d in range(6)]]

    def encode(text: str) -> list[int]:
        return [names.index(part) for part in re.findall(r"\n|Score:| \d| |\d", text)]

    table = torch.zeros(15, 15)
    table[1, 2 + 4] = 50.0
    table[8, 9 + 0] = 50.0
    codec = FunctionCodec(encode, lambda ids: "".join(names[i] for i in ids), vocab_size=15)
    made = ScoreForcer(policy_for(Table(table)), codec, ScoreParser(), temperature=1.0)
    assert made.force([(0,), (0, 0)], keys(2)) == [4.0, 4.0]
    assert made.num_tokens == 3


def test_a_real_model_and_tokenizer_give_a_valid_score(stories_model: Any, stories_tokenizer: Any) -> None:
    codec = HuggingFaceCodec(stories_tokenizer)
    made = ScoreForcer(policy_for(stories_model), codec, ScoreParser(), temperature=1.0)
    contexts = [codec.prompt_ids(text) for text in ("Rate the story about a cat.", "One day")]
    drawn = made.force(contexts, keys(2))
    assert set(drawn) <= {0, 1, 2, 3, 4, 5}
    assert made.force(contexts[::-1], keys(2)[::-1]) == drawn[::-1]
