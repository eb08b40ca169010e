"""A judge of one's own in a plan: `judge: {custom: my_judge.py:MyJudge, options: {...}}`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.function import DEFAULT_TIMEOUT_SECONDS
from self_rewarding_lm_pytorch.judges.own import OwnJudge, load_judge, made_judge
from self_rewarding_lm_pytorch.objects import object_name, text_of
from self_rewarding_lm_pytorch.stages.sampling import SamplingSettings

TEMPLATE_ENDINGS = (".jinja", ".jinja2", ".j2")


class CustomJudging(SamplingSettings):
    """Settings of a judge, which may be the user's own.

    custom: `file.py:Name` or `package.module:Name` of a class or function that takes the options by name and
        gives an object with judge(shown, *, on_progress=None); from Python also the class or such an object.
    options: what it is made with.
    timeout_seconds: how long one call of it may take, before the run stops and names the batch; null:
        any time.
    """

    custom: Any = None
    options: dict[str, Any] = Field(default_factory=dict)
    timeout_seconds: Annotated[float, Field(gt=0)] | None = DEFAULT_TIMEOUT_SECONDS

    _found: Any = PrivateAttr(default=None)
    _template_text: str = PrivateAttr(default="")  # of a template that is a file

    @model_validator(mode="after")
    def _custom_is_there(self) -> CustomJudging:
        if self.custom is None:
            if self.options or self.timeout_seconds != DEFAULT_TIMEOUT_SECONDS:
                given = "options" if self.options else "timeout_seconds"
                raise ValueError(f"{given} would have no effect without custom, a judge of your own")
            return self
        try:
            self._found = load_judge(self.custom)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _template_is_there(self) -> CustomJudging:
        """A template that is a file is read while it is known where the plan lies."""
        template = getattr(self, "template", None)
        if isinstance(template, str) and "\n" not in template and template.endswith(TEMPLATE_ENDINGS):
            try:
                self._template_text = text_of(template, what="judge template")
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return self

    def check_custom(self) -> None:
        """Raises ConfigError where a judge of one's own cannot be made with its options."""
        if self.custom is not None:
            self.own_judge()

    def own_judge(self) -> OwnJudge:
        """The user's judge behind checks. Raises ConfigError where the options do not make one."""
        name = self.custom if isinstance(self.custom, str) else object_name(self.custom)
        made = made_judge(self._found, self.options, name)
        return OwnJudge(made, name, timeout_seconds=self.timeout_seconds)
