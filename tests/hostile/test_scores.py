# ruff: noqa: RUF001
"""The score is what the judge itself wrote, whatever it was shown, and reading it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.judges.llm import LLMJudge
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.stopping import VoteStop
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate, builtin_names
from self_rewarding_lm_pytorch.models.load import policy_for
from tests.helpers import Script, byte_codec, candidate, prompt
from tests.hostile.texts import DELIMITERS, ENDS, FRAGMENTS, SCORES, hostile, storable

CODEC = byte_codec(eos_id=0)
BOMB = r"(?:a|aa)+\$ {{ reward }}"  # exponential on a row of a's
MARKER = "\x01"  # here the judge's script begins


@pytest.fixture
def patience() -> Iterator[None]:
    """What never ends fails the test; nothing here takes more than a moment."""

    def over(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it did not end")

    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def judge(script: bytes, name: str, *, pattern: str = "Score: {{ reward }}", **given: Any) -> LLMJudge:
    built_in = JudgeTemplate.builtin(name)
    template = JudgeTemplate(template_fn=lambda p, r: built_in.render(p, r).text + MARKER)
    policy = policy_for(Script(script))
    parser = ScoreParser(pattern, timeout_seconds=0.05)
    return LLMJudge(
        PolicyGenerator(policy, CODEC.eos_ids),
        CODEC,
        template,
        parser,
        num_votes=1,
        sampling=Sampling(1.0, None),
        max_new_tokens=60,
        max_prompt_tokens=None,
        seed=("run", 0),
        stop=VoteStop(CODEC, parser=parser),
        **given,
    )


def attacks() -> list[str]:
    return [
        each.replace(MARKER, "").encode(errors="replace").decode()
        for each in (*FRAGMENTS, *DELIMITERS[::160])
    ]


@pytest.mark.parametrize("name", builtin_names())
@pytest.mark.parametrize(
    ("script", "score", "reason"),
    [(b"Poor.\nScore: 2\n", 2.0, ""), (b"I like it very much.", None, "no_score")],
    ids=["a judge with a score", "a judge without"],
)
def test_the_score_is_the_judges_own_whatever_it_is_shown(
    name: str, script: bytes, score: float | None, reason: str
) -> None:
    shown = [
        (prompt(i, f"{text} why?"), candidate(i, 0, f"so {text} {SCORES[i % len(SCORES)]}\n{text}"))
        for i, text in enumerate(attacks()[name == "additive" :: 2])  # the two templates share them
    ]
    found = judge(script, name).judge(shown)
    assert {judgment.score for judgment in found} == {score}
    assert {(vote.text.strip(), vote.reason) for j in found for vote in j.votes} == {
        (script.decode().strip(), reason)
    }


@pytest.mark.parametrize("form", SCORES)
def test_every_form_of_a_score_is_one_where_the_judge_writes_it(form: str) -> None:
    """So the forms above would count if the judge's prompt were parsed."""
    assert ScoreParser().parse(form).score == 5.0


QUOTED = [
    "“{}”",
    "„{}“",
    "„{}”",
    "”{}”",
    '"{}"',
    "«{}»",
    "« {} »",
    "»{}«",
    "‹{}›",
    "›{}‹",
    "「{}」",
    "『{}』",
    "〝{}〟",
]
QUOTED += [
    "‘{}’",
    "‚{}‘",
    "《{}》",
    "＂{}＂",
    "﹁{}﹂",
    "｢{}｣",
    "<response>{}</response>",
    "<PROMPT>\n{}\n</PROMPT>",
    "> {}",
]


@pytest.mark.parametrize("marks", QUOTED)
@pytest.mark.parametrize("form", ["Score: 5", "give it Score: 5 now", "Score：５"])
def test_what_the_judge_quotes_is_not_its_score(marks: str, form: str) -> None:
    said = marks.format(form)
    parse = ScoreParser().parse
    assert parse(f"It says\n{said}\nand no more.").status == "no_score"
    assert parse(f"Score: 1\nbecause it says\n{said}\nin the end.").score == 1.0
    assert parse(f"{said} it says.\nScore: 1").score == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "C’est « bien ».\nScore: 4 « mal »",
        "It’s the users’ view.\nScore: 4",
        "Ja »gut« so.\nScore: 4",
        "a ” b\nScore: 4",
    ],
)
def test_marks_around_other_words_hide_no_score(text: str) -> None:
    assert ScoreParser().parse(text).score == 4.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Score: ٤", 4.0),
        ("Score: ٤٫٥", 4.5),
        ("Score: ۴٫۵", 4.5),
        ("Score: ४.५", 4.5),
        ("Score: ４．５", 4.5),
        ("Score: ٤٬٠٠٠", "ambiguous"),
        ("Score: 4·5", "ambiguous"),
        ("Score: 4。5", "ambiguous"),
        ("Score: 4٥", "out_of_range"),
        ("Score: 4\u200b5", "out_of_range"),
        ("Score: \u202e4 3\u202c", "ambiguous"),
        ("Score: 1\x085", "ambiguous"),
        ("Score: ④", "no_score"),
        ("Score: Ⅳ", "no_score"),
        ("Score: 四", "no_score"),
        ("Score: \x1b[31m4", "no_score"),
        ("Score: \ud8004", "no_score"),
    ],
)
def test_digits_of_any_script_are_read_whole_or_not_at_all(text: str, expected: float | str) -> None:
    parsed = ScoreParser().parse(text)
    assert (parsed.score if isinstance(expected, float) else parsed.status) == expected


@settings(max_examples=150, deadline=None)
@given(
    hostile, st.sampled_from(["Score: {{ reward }}", r"\[\[{{ reward }}\]\]", "(?:Score|Note): {{ reward }}"])
)
def test_any_text_gives_a_score_of_the_range_or_a_reason(text: str, pattern: str) -> None:
    parsed = ScoreParser(pattern).parse(text)
    assert (parsed.score is None) == (parsed.status != "parsed")
    assert parsed.score is None or 0 <= parsed.score <= 5


@settings(max_examples=100, deadline=None)
@given(storable, st.sampled_from(ENDS))
def test_the_judges_last_line_decides_behind_unquoted_text(text: str, end: str) -> None:
    before = text.replace('"', "").replace("“", "") + end
    assert ScoreParser().parse(f"{before}.\n\nScore: 3").score in (3.0, None)


@pytest.mark.parametrize(
    "tail",
    ["*" * 300_000, " *" * 100_000, "* " * 100_000 + "-", "\t" * 300_000 + "/", '"' * 300_000, ")" * 300_000],
)
def test_what_follows_a_score_is_read_in_linear_time(patience: None, tail: str) -> None:
    assert ScoreParser().parse("Score: 4 " + tail).score in (4.0, None)


def test_a_bomb_in_the_pattern_is_a_vote_with_a_reason(patience: None) -> None:
    (found,) = judge(b"a" * 50 + b"b", "additive_small", pattern=BOMB).judge([(prompt(0), candidate(0, 0))])
    assert (found.score, found.votes[0].status, found.votes[0].reason) == (None, "unparsed", "timeout")


def test_a_vote_whose_reading_times_out_ends_at_that_line(patience: None) -> None:
    """Otherwise each further line would cost the time-out again."""
    script = b"a" * 40 + b"b\n" + b"more\n" * 3
    (found,) = judge(script, "additive_small", pattern=BOMB).judge([(prompt(0), candidate(0, 0))])
    assert found.votes[0].text == "a" * 40 + "b\n"
    assert (found.score, found.votes[0].reason) == (None, "timeout")


@pytest.mark.parametrize("opening", ["“", "„", '"', "«", "»", "「", "『", "〝", "<response>", "<PROMPT>"])
def test_a_vote_goes_on_while_a_quotation_is_open(opening: str) -> None:
    """Its end may show that the score so far was only quoted; both stop where the quotation is closed."""
    closing = {"“": "”", "„": "“", "«": "»", "»": "«", "「": "」", "『": "』", "〝": "〟"}.get(
        opening, opening.replace("<", "</")
    )
    stop = VoteStop(CODEC, parser=ScoreParser())
    quoted = f"It says:\n{opening}Good.\nScore: 5\n"
    assert not stop(CODEC.continuation_ids(quoted))
    assert stop(CODEC.continuation_ids("Good.\nScore: 5\n"))
    whole = f"{quoted}{closing}\nScore: 1\n"
    assert stop(CODEC.continuation_ids(whole)) and ScoreParser().parse(whole).score == 1.0
