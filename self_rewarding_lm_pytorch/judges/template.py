"""The prompt a judge is shown: the rubric first, then prompt and responses as data, then the question.

The additive five-point rubric is that of Self-Rewarding LMs (arXiv 2401.10020, figure 2), in our own
words. The rubric stands first so that all judgments share it as a prefix.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from self_rewarding_lm_pytorch.errors import ConfigError, JudgeError
from self_rewarding_lm_pytorch.judges.delimiters import ESCAPE, delimiters_of

if TYPE_CHECKING:  # imported where a template is used
    from jinja2 import Template

POINTWISE = ("prompt", "response")
"""What a template shows of which a response's score is asked."""

PAIRWISE = ("prompt", "first", "second")
"""What a template shows that asks which of two responses is better."""

META = ("judge_prompt", "first", "second")
"""What a template shows that asks which of two judgments is better: all the judge was shown, and both."""


@dataclass(frozen=True, slots=True)
class RenderedJudgePrompt:
    """What the judge is shown, and how many delimiters were escaped in the data."""

    text: str
    num_escaped: int


class JudgeTemplate:
    """Renders prompt and response(s), which are data and never templates, into a judge's prompt.

    source: a jinja2 template that uses each of `variables` and no other variable.
    name: how messages call the template.
    auto_dedent: remove the source's common indentation and its first and last blank lines.
    template_fn: a function (prompt, response) -> text, in the place of the source; it gets as many texts,
        in their order, as there are `variables`.
    escaped_tags: names of the tags between which the template quotes. In the quoted data the `<` of
        such a tag, also of one that only looks like it (`delimiters.py`), becomes `&lt;`, so that it
        cannot end the quotation. Built-in templates use it.
    variables: POINTWISE, PAIRWISE or META.
    Raises ConfigError for a source that is not valid, or uses too few or other variables.
    """

    def __init__(
        self,
        source: str | None = None,
        *,
        name: str = "custom",
        auto_dedent: bool = True,
        template_fn: Callable[..., str] | None = None,
        escaped_tags: tuple[str, ...] = (),
        variables: tuple[str, ...] = POINTWISE,
    ) -> None:
        if source is None and template_fn is None:
            raise ConfigError(
                f"The judge template {name!r} has neither a source nor a template_fn, so the judge "
                "could be shown nothing. Give one of them."
            )
        if source is not None and auto_dedent:
            source = _dedent(source)
        self.name = name
        self.source = source
        self.template_fn = template_fn
        self.escaped_tags = escaped_tags
        self.variables = variables
        needs_source = source is not None and template_fn is None
        self._template = _compile(source, name, variables) if needs_source and source is not None else None
        self._delimiter = delimiters_of(escaped_tags) if escaped_tags else None

    @classmethod
    def builtin(cls, name: str, variables: tuple[str, ...] = POINTWISE) -> JudgeTemplate:
        """One of our templates by name; see `builtin_names`. Raises ConfigError for another name."""
        if name not in (known := builtin_names(variables)):
            raise ConfigError(
                f"There is no built-in judge template {name!r} that shows {', '.join(variables)}, so nothing "
                f"could be judged with it. Known: {', '.join(known)}. For a template of your own, give its "
                "text."
            )
        return cls(_builtin_source(name), name=name, escaped_tags=variables, variables=variables)

    def render(self, *data: str) -> RenderedJudgePrompt:
        """The judge's prompt for the texts of `variables`, in their order.

        Raises ConfigError where the template, JudgeError where the function fails.
        """
        num_escaped = 0
        if self._delimiter is not None:
            escaped = [self._delimiter.subn(ESCAPE, text) for text in data]
            data = tuple(text for text, _ in escaped)
            num_escaped = sum(count for _, count in escaped)
        if self._template is None:
            return RenderedJudgePrompt(self._call(data), num_escaped)
        named = dict(zip(self.variables, data, strict=True))
        try:
            text = self._template.render(named)
        except Exception as error:  # a template may divide by zero or call what the sandbox forbids
            raise ConfigError(
                f"The judge template {self.name!r} failed while rendering ({error}), so nothing can "
                f"be judged with it. The response began with {data[-1][:80]!r}."
            ) from error
        return RenderedJudgePrompt(text, num_escaped)

    def _call(self, data: tuple[str, ...]) -> str:
        assert self.template_fn is not None
        try:
            text = self.template_fn(*data)
            if not isinstance(text, str):
                raise TypeError(f"it returned {type(text).__name__}, not text")
        except Exception as error:
            raise JudgeError(
                f"template_fn of the judge template {self.name!r} failed ({error}), so this response "
                f"cannot be judged. It was called with {' and '.join(repr(part[:80]) for part in data)}."
            ) from error
        return text


def builtin_names(variables: tuple[str, ...] = POINTWISE) -> tuple[str, ...]:
    """Names that `JudgeTemplate.builtin` knows, sorted: of our templates that show these variables."""
    files = (entry.name for entry in _folder().iterdir())
    names = sorted(file.removesuffix(".jinja") for file in files if file.endswith(".jinja"))
    return tuple(name for name in names if _used(_builtin_source(name)) == set(variables))


def _builtin_source(name: str) -> str:
    return _folder().joinpath(f"{name}.jinja").read_text(encoding="utf-8")


def _used(source: str) -> set[str]:
    from jinja2 import meta
    from jinja2.sandbox import SandboxedEnvironment

    return meta.find_undeclared_variables(SandboxedEnvironment().parse(source))


def placeholders(variables: tuple[str, ...]) -> str:
    """How a template's text shows the variables, for messages."""
    return " and ".join(f"{{{{ {name} }}}}" for name in variables)


def _folder() -> Traversable:
    return resources.files("self_rewarding_lm_pytorch.judges").joinpath("prompts")


def _dedent(source: str) -> str:
    return re.sub(r"\A(?:[ \t]*\r?\n)+|\s+\Z", "", textwrap.dedent(source))


def _compile(source: str, name: str, variables: tuple[str, ...]) -> Template:
    """A sandboxed template, after a check of its variables before any model is loaded."""
    from jinja2 import StrictUndefined, TemplateSyntaxError, meta
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    try:
        tree = environment.parse(source)
        template = environment.from_string(source)
    except TemplateSyntaxError as error:
        lines = source.splitlines()
        line = lines[error.lineno - 1] if 0 < error.lineno <= len(lines) else ""
        raise ConfigError(
            f"The judge template {name!r} is not valid jinja2: {error.message} at line "
            f"{error.lineno}: {line.strip()!r}. Nothing could be judged with it; correct that line."
        ) from error
    found = meta.find_undeclared_variables(tree)
    if found != set(variables):
        raise ConfigError(
            f"The judge template {name!r} uses the variables {sorted(found) or 'none'}, expected "
            f"exactly {list(variables)}: the judge must be shown all of them, and nothing else can be "
            f"filled in. Write {placeholders(variables)}."
        )
    if next(meta.find_referenced_templates(tree), "") != "":
        raise ConfigError(
            f"The judge template {name!r} includes or imports another template, which cannot be "
            "loaded here. Put its text into this one."
        )
    return template
