"""Reading the score out of what a judge wrote: the last anchored number decides, none is invented.

The protocol is that of Self-Rewarding LMs (arXiv 2401.10020): the judge ends with `Score: N`. Pass
in only the judge's own text, not the prompt it was shown. What it quotes in there is masked first
(`quotations.py`).
"""

import math
import textwrap
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import regex

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.quotations import masked

ParseStatus = Literal["parsed", "no_score", "out_of_range", "ambiguous", "not_finite", "timeout"]

_PLACEHOLDER = regex.compile(r"\{\{\s*(\w+)\s*\}\}")
_PLAIN = regex.compile(r"(?:[^\\^$.|?*+()\[{]|\\[^\w\s])*")  # text that is no regular expression
_ESCAPED = regex.compile(r"\\([^\w\s])")
_NUMBER = r"(?P<srlm_number>[+-]?+(?:\d++(?:[.,]\d++)?+|\.\d++))"  # possessive: whole or not at all
_WORD = r"\p{Lu}\p{Ll}\p{Lt}\p{N}\uFFFD"  # not \w: Chinese has no space between score and unit
_FILL = r"[\s*_`\"'“”]"  # what markdown and JSON put between the keyword and the number
_OPENING = rf"(?:{_FILL}|[(\[{{$]){{0,64}}(?:<(?=[^<>\n]{{1,16}}>))?"
_DENOMINATOR = regex.compile(
    r"(?i)[*_`\"']{0,4}(?:[ \t]points?\b)?[ \t]*\(?(?:/|(?:out[ \t]+)?of\b)[ \t*_`]*(\d++(?:[.,]\d++)?+)"
)
_GOES_ON = regex.compile(  # a number that goes on like this is no score
    rf"(?i)[*_`]*+[{_WORD}]|[.,:·・。]+\d|-\w|\+|[ \t]*[/%]"  # 4th, 1e5, 1.2.3, 4-ish, 80%, 4/N
    r"|[ \t*_`]*+[-+=^~×÷][ \t*_`]*+\d|[ \t_`]*+\*[ \t*_`]*+\d"  # 3 - 4, 1 + 1 = 2, 4 * 5
    r"|[ \t]+(?:(?:to|or)[ \t]+)?\d|[\0-\x08\x0e-\x1f\x7f]+\d"  # 3 or 4; a backspace between digits
)
_BARE = r"[+-]?\d++(?:[.,]\d++)?+(?![ \t]*(?!(?:or|and|to|out|of)\b)\p{L})"  # not "2 more reasons"
_IS_ONE_OF_SEVERAL = regex.compile(
    rf"(?i)[ \t*_`]*+(?:[,;]|,?[ \t*_`]*+(?:or|and|to)\b|&)[ \t*_`]*+{_BARE}"  # "3, 4", "3 and 4"
    r"|[ \t*_`]*+(?:\||[-=~]+>|[\u2190-\u21ff\u2794-\u27bf\u27f0-\u27ff])[ \t*_`]*+[+-]?\d"  # 3|5, 3 -> 4
)
_JOINED = r"[*_`]{0,3}(?:[ \t]{1,8}|-)?[*_`]{0,3}"
_NOT_OF_ANOTHER = (  # "max_score: 5" and "confidence score: 1" are not the score
    rf"(?<!(?<![{_WORD}])(?:(?:max|min)\.?|maxim(?:um|al)|minim(?:um|al)|highest|lowest|possible|confidence)"
    rf"{_JOINED}(?:(?:total|final|overall|achievable|attainable|available|obtainable){_JOINED})?)"
)
_MOST_DIGITS = 400  # no finite float has more
_REST_OF_LINE = regex.compile(r"(?i)[ \t*_`\"'”)\]}>$.!]*(?:points?\b[ \t*_`.!)]*)?(?:\r?\n|\Z)")
# Dashes, slashes, the decimal and the thousands mark of Arabic.
_SAME_SIGNS = str.maketrans("\u2212\u2013\u2014\u2012\u2044\u2215\u066b\u066c", "----//.,")


def _value(number: str) -> float:
    return float(number.replace(",", "."))


@dataclass(frozen=True, slots=True)
class ParsedScore:
    """A score, or None with the reason in `status`; an absent score never becomes a number."""

    score: float | None
    status: ParseStatus


def _normalise(text: str) -> str:
    """One spelling for full-width and styled characters, dashes and slashes."""
    if text.isascii():
        return text
    text = regex.sub(r"\p{No}", "\ufffd", text)  # ² ½ ④: NFKC would make 42 of 4²
    text = regex.sub(r"\p{Cf}", "", text)  # invisible
    return unicodedata.normalize("NFKC", text).translate(_SAME_SIGNS)


def _flexible(literal: str) -> str:
    """A pattern for plain text that tolerates markdown, other spacing and line breaks."""
    tokens = regex.findall(r"\s+|[^\W_]+|[\W_]", _normalise(_ESCAPED.sub(r"\1", literal)))
    pattern, last = "", " "
    for token in tokens:
        if token.isspace():  # "Score:4" may lack the space, "total score" may not
            pattern += f"{_FILL}{{{int(last.isalnum())},8}}"
        else:
            pattern += ("" if last.isspace() else f"{_FILL}{{0,8}}") + regex.escape(token)
        last = token
    start = f"(?<![{_WORD}])" if tokens and tokens[0].isalnum() else ""
    return start + pattern + (f"(?![{_WORD}])" if last.isalnum() else "")


def _expression(part: str) -> str:
    """A user's regular expression, its characters spelled as `_normalise` spells the text."""
    return "".join(c if (same := _normalise(c)) == c else regex.escape(same) for c in part)


def _compile_pattern(pattern: str) -> tuple["regex.Pattern[str]", str, str]:
    """The compiled search, and what stands before and after `{{ reward }}`."""
    names = _PLACEHOLDER.findall(pattern)
    if names != ["reward"]:
        raise ConfigError(
            f"The score pattern {pattern!r} must mark the number to read by {{{{ reward }}}}, exactly "
            f"once, and hold no other variable; found {names or 'none'}. Try 'Score: {{{{ reward }}}}'."
        )
    before, _, after = _PLACEHOLDER.split(pattern)
    zeros = "0" * (len(pattern) - len(before + after) - 7)  # keeps positions as the user's
    try:
        known = regex.compile(f"{before}(?P<n>{zeros}){after}").groupindex
        problem = "" if "n" in known else "{{ reward }} stands in a character class"
    except regex.error as error:
        problem = f"{error.msg} at position {error.pos}"
    if problem:
        raise ConfigError(
            f"The score pattern {pattern!r} is no valid regular expression: {problem}. No score "
            r"could be read with it. Escape special characters, as in \[\[{{ reward }}\]\]."
        )
    head = _flexible(before.rstrip()) + _OPENING
    if not _PLAIN.fullmatch(before):  # `.*` must not eat digits or a sign; a dash of the user's own may stand
        head = _expression(before) + r"(?<!\d)(?<!\d[.,])" + ("" if "-" in before else "(?<![+-])")
    elif _normalise(before)[:1].isalnum():
        head = _NOT_OF_ANOTHER + head
    is_plain = after and _PLAIN.fullmatch(after)
    tail = f"{_FILL}{{0,8}}{_flexible(after.strip())}" if is_plain else _expression(after)
    return regex.compile(head + _NUMBER + tail, regex.IGNORECASE), before, after


class ScoreParser:
    """Reads one score from a judge's text.

    pattern: plain text or a regular expression around `{{ reward }}`, which stands for one number; outer
        white space and case do not matter. Plain text also tolerates markdown and other spacing; a
        regular expression is taken at its word. None only together with `parse_reward`.
    score_range: lowest and highest valid score, both included; None takes any finite number >= 0.
    parse_reward: a function of the raw text, in the pattern's place; None means no score. What it gives
        must be finite and in `score_range`; without a range it may be negative.
    timeout_seconds: how long the pattern may search one text.
    Raises ConfigError if no score could ever be read.
    """

    def __init__(
        self,
        pattern: str | None = "Score: {{ reward }}",
        *,
        score_range: tuple[float, float] | None = (0, 5),
        parse_reward: Callable[[str], float | None] | None = None,
        timeout_seconds: float = 1.0,
    ) -> None:
        problem = ""
        if pattern is None and parse_reward is None:
            problem = "neither a pattern nor parse_reward was given; give 'Score: {{ reward }}'"
        if score_range is not None and not -math.inf < score_range[0] < score_range[1] < math.inf:
            problem = f"score_range is {score_range!r}; give (lowest, highest), finite, or None"
        if not timeout_seconds > 0:
            problem = f"timeout_seconds is {timeout_seconds!r}; give more than 0"
        if problem:
            raise ConfigError(f"No score could ever be read: {problem}.")
        self.pattern = None if pattern is None else textwrap.dedent(pattern).strip()
        self.score_range = score_range
        self.parse_reward = parse_reward
        self.timeout_seconds = timeout_seconds
        self._compiled = None if self.pattern is None else _compile_pattern(self.pattern)

    @property
    def literal_prefix(self) -> str | None:
        """The text before the number, to force a score with; None if it is not plain text."""
        before = None if self._compiled is None else self._compiled[1]
        is_plain = before is not None and _PLAIN.fullmatch(before)
        return str(_ESCAPED.sub(r"\1", before)) if is_plain else None

    def whole_scores(self) -> tuple[str, ...]:
        """The integers of the range, 0 to 10 without one; ConfigError if none or over 1,001."""
        low, high = self.score_range or (0, 10)
        if not 0 <= math.floor(high) - math.ceil(low) <= 1000:
            raise ConfigError(
                f"With score_range {self.score_range!r}, which holds no integer or over 1,001, a score "
                "cannot be forced or expected. Change the range, or use unparsed='drop' and mode='sampled'."
            )
        return tuple(str(value) for value in range(math.ceil(low), math.floor(high) + 1))

    def parse(self, text: str, *, is_cut: bool = False) -> ParsedScore:
        """The score in `text`; the last number at the pattern decides, and is never clipped.

        If that number is out of range or ambiguous ("3-4", "3, 4", "8/10" in a range to 5), no earlier one
        counts. Decimal commas are read ("4,5" is 4.5). Behind plain text a number that is said to be another
        score is none ("max score: 5", "confidence score: 1"). Raises JudgeError if parse_reward fails.

        is_cut: the text ends where its budget did. A number at its very end is ambiguous if a longer whole
        number of the range begins with it: "Score: 1" in a range to 10 or more, not in one to 5. Without a
        range it is read as it stands: any number could go on, also that of a judge that never ends.
        """
        if self.parse_reward is not None:
            return self._parse_with_function(text)
        assert self._compiled is not None and self.pattern is not None
        search, before, after = self._compiled
        text = masked(_normalise(text), _normalise(self.pattern))
        last = None
        try:
            for match in search.finditer(text, timeout=self.timeout_seconds):
                last = match if match["srlm_number"] else last
        except TimeoutError:
            return ParsedScore(None, "timeout")
        return ParsedScore(None, "no_score") if last is None else self._read(last, before, after, is_cut)

    def _read(self, match: "regex.Match[str]", before: str, after: str, is_cut: bool) -> ParsedScore:
        number, end = match["srlm_number"], match.end("srlm_number")
        if "," in number and len(number) - number.index(",") > 3:  # 1,000: thousands or decimals?
            return ParsedScore(None, "ambiguous")
        if is_cut and end == len(match.string) and self._may_be_longer(number):
            return ParsedScore(None, "ambiguous")
        if not after and self._is_ambiguous(match, before):
            return ParsedScore(None, "ambiguous")
        return self._in_range(_value(number), at_least=0.0)

    def _is_ambiguous(self, match: "regex.Match[str]", before: str) -> bool:
        """Whether what stands behind the number makes it another one, or one of several."""
        text, value, end = match.string, _value(match["srlm_number"]), match.end("srlm_number")
        if share := _DENOMINATOR.match(text, end):
            end, top = share.end(), _value(share[1])
            if top < value if self.score_range is None else top != self.score_range[1]:
                return True
        if _GOES_ON.match(text, end):
            return True
        if not _PLAIN.fullmatch(before):
            return False
        is_below = "\n" not in before and "\n" in text[match.start() : end]
        return bool(_IS_ONE_OF_SEVERAL.match(text, end) or (is_below and not _REST_OF_LINE.match(text, end)))

    def _may_be_longer(self, number: str) -> bool:
        """Whether a whole number of the range begins with this one and has more digits."""
        digits = number.lstrip("+-")
        if self.score_range is None or not digits.isdecimal() or len(digits) > _MOST_DIGITS:
            return False
        if not int(digits):  # nobody writes 05
            return False
        low, high = self.score_range
        low, high = (-high, -low) if number.startswith("-") else (low, high)
        first, last = 10 * int(digits), 10 * int(digits) + 9
        while last < low:
            first, last = 10 * first, 10 * last + 9
        return first <= high

    def _parse_with_function(self, text: str) -> ParsedScore:
        assert self.parse_reward is not None
        try:
            value = self.parse_reward(text)
            if isinstance(value, str):
                raise TypeError(f"it returned the text {value[:40]!r}, not a number or None")
            number = None if value is None else float(value)
        except Exception as error:
            raise JudgeError(
                f"parse_reward failed on the judgment that begins {text[:120]!r} ({str(error)[:120]}), "
                "so it has no score. Let it return None for a text without one."
            ) from error
        if number is None:
            return ParsedScore(None, "no_score")
        return self._in_range(number, at_least=-math.inf)

    def _in_range(self, value: float, at_least: float) -> ParsedScore:
        low, high = self.score_range or (at_least, math.inf)
        if not math.isfinite(value):
            return ParsedScore(None, "not_finite")
        return ParsedScore(value, "parsed") if low <= value <= high else ParsedScore(None, "out_of_range")
