"""The external reward of the stories example: how well a short text goes on with a story's opening.

Any function `(prompts, responses) -> list of floats` can take its place in the plan. This one gives
0 to 1. Four things a reader of tiny stories would like, each 0 to 1, are averaged:

    speech      somebody says a whole sentence between quotation marks
    ending      the last sentence is finished, the quotation marks are closed
    character   whom the opening names is still there
    variety     few words are said again: no repeated sentences or phrases

and the mean is multiplied by `plainness`, 0 to 1: is this plain prose at all? Letters and symbols
without words, a list of words, one word again and again, or next to no text score near 0 whatever else
they hold, so that babble wins nothing. Neither does length: past 15 words more of it changes nothing.

It reads no meaning. A salad of well-chosen words would pass, which is why measure.py also asks how likely
the original model finds what was written, and how varied all of it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_SPEECH = re.compile(r'"([^"]*)"')
_FINISHED = re.compile(r"""[.!?]"?\s*$""")
_SENTENCE_END = re.compile(r"[.!?]+")

# Words that hold English sentences together; about half of the words of any children's story.
_JOINT_TEXT = """
    a an and are at be but by can could did do for from had has have he her him his i in is it its let
    like me my no not of on one out she so that the their them then there they this to up us very want
    wanted was we went were what when will with would yes you your said all day
"""
_JOINTS = frozenset(_JOINT_TEXT.split())
_OPENERS = _JOINTS | {"once", "every", "soon", "sometimes", "suddenly", "now", "mom", "dad", "if", "after"}

SPEECH_WORDS = 4  # a spoken sentence of so many words counts fully
ENOUGH_WORDS = 15  # a shorter response is hardly a story


def story_reward(prompts: list[str], responses: list[str]) -> list[float]:
    """One number from 0 (no story) to 1 for each prompt and its response."""
    return [_score(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def _score(prompt: str, response: str) -> float:
    parts = (speech(response), ending(response), character(prompt, response), variety(response))
    return plainness(response) * sum(parts) / len(parts)


def speech(response: str) -> float:
    """The longest spoken text that ends like a sentence, up to SPEECH_WORDS words."""
    spoken = [text for text in _SPEECH.findall(response) if re.search(r"[.!?,]\s*$", text)]
    longest = max((len(_WORD.findall(text)) for text in spoken), default=0)
    return min(1.0, longest / SPEECH_WORDS)


def ending(response: str) -> float:
    """1 for a finished last sentence; half of it where a quotation is left open."""
    finished = bool(_FINISHED.search(response))
    is_closed = response.count('"') % 2 == 0
    return finished * (1.0 if is_closed else 0.5)


def character(prompt: str, response: str) -> float:
    """1 if a name of the opening occurs in the response, or if the opening names nobody."""
    names = _names(prompt)
    return float(not names or bool(names & set(_WORD.findall(response))))


def variety(response: str) -> float:
    """1 without repetition, 0 once a fifth of the three-word phrases, or any sentence, is a repetition."""
    words = [word.lower() for word in _WORD.findall(response)]
    phrases = list(zip(words, words[1:], words[2:], strict=False))
    again = _share_repeated(phrases)
    return max(0.0, 1.0 - 5 * again) * (1.0 if _share_repeated(_sentences(response)) == 0 else 0.0)


def plainness(response: str) -> float:
    """1 for prose: enough words, nearly all of the text is words, joined as English sentences are."""
    words = [word.lower() for word in _WORD.findall(response)]
    if not words:
        return 0.0
    enough = min(1.0, len(words) / ENOUGH_WORDS)
    lettered = sum(map(len, words)) / len("".join(response.split()))
    joints = sum(word in _JOINTS for word in words) / len(words)
    monotony = max(Counter(words).values()) / len(words)
    per_sentence = len(words) / max(1, len(_sentences(response)))
    return (
        enough
        * _ramp(lettered, 0.6, 0.85)
        * _ramp(joints, 0.15, 0.35)
        * _ramp(joints, 0.9, 0.7)
        * _ramp(monotony, 0.35, 0.2)
        * _ramp(per_sentence, 30, 18)
    )


def _names(prompt: str) -> set[str]:
    """Words with a capital letter that are not ordinary first words of a sentence."""
    return {word for word in _WORD.findall(prompt) if word[0].isupper() and word.lower() not in _OPENERS}


def _sentences(text: str) -> list[str]:
    """Its sentences in small letters, the last one whether finished or not."""
    parts = (part.strip(' "\n').lower() for part in _SENTENCE_END.split(text))
    return [part for part in parts if part]


def _share_repeated(things: Sequence[object]) -> float:
    return 1.0 - len(set(things)) / len(things) if things else 0.0


def _ramp(value: float, low: float, high: float) -> float:
    """0 at `low`, 1 at `high`, a straight line between; `low` may be the larger."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
