"""A judge's prompt and score format, as the published interface takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.parsing import ScoreParser
from self_rewarding_lm_pytorch.judges.template import JudgeTemplate

_DEFAULT_PATTERN = "Score: {{ reward }}"


@dataclass
class RewardConfig:
    """prompt_template: jinja2, with {{ prompt }} and {{ response }}; or template_fn(prompt, response).

    reward_regex_template: what to look for in the judge's answer, {{ reward }} for the number.
    parse_reward: a function text -> float or None, in its place.
    score_range: None accepts any number >= 0, and forcing chooses among 0 to 10.
    Raises ConfigError at once for a template or pattern that cannot work.
    """

    prompt_template: str | None = None
    reward_regex_template: str | None = None
    parse_reward: Callable[[str], float | None] | None = None
    template_fn: Callable[..., str] | None = None
    auto_dedent: bool = True
    score_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.prompt_template is None and self.template_fn is None:
            raise ConfigError("a RewardConfig needs a prompt_template or a template_fn to show the judge")
        if self.template_fn is None:
            JudgeTemplate(self.prompt_template, auto_dedent=self.auto_dedent)
        ScoreParser(self._pattern, score_range=self.score_range, parse_reward=self.parse_reward)

    @property
    def _pattern(self) -> str | None:
        if self.reward_regex_template is None and self.parse_reward is None:
            return _DEFAULT_PATTERN
        return self.reward_regex_template

    def judge_settings(self) -> dict[str, Any]:
        """The judge settings of a stage."""
        template = self.prompt_template if self.template_fn is None else _positional(self.template_fn)
        return {
            "template": template,
            "score_pattern": self._pattern,
            "score_range": self.score_range,
            "parse_reward": self.parse_reward,
            "auto_dedent": self.auto_dedent,
        }


class DefaultRewardConfig(RewardConfig):
    """Our additive five-point rubric, short or long as the judge's context allows."""

    def __init__(self) -> None:
        self.auto_dedent = True

    def judge_settings(self) -> dict[str, Any]:
        return {"template": "auto"}


def _positional(function: Callable[..., str]) -> Callable[[str, str], str]:
    """Called with the keywords prompt and response where it takes them (`Template.render` does)."""
    try:
        inspect.signature(function).bind(prompt="", response="")
    except TypeError:
        return function
    return lambda prompt, response: function(prompt=prompt, response=response)
