"""Which template a judge's settings come to."""

from __future__ import annotations

from collections.abc import Callable

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.judges.pairwise import LABELS
from self_rewarding_lm_pytorch.judges.template import (
    PAIRWISE,
    POINTWISE,
    JudgeTemplate,
    builtin_names,
    placeholders,
)

_SMALL_CONTEXT = 2048  # below it, "auto" takes the short rubric


def chosen_template(
    template: str | Callable[..., str],
    *,
    file_text: str,
    mode: str,
    labels: tuple[str, str],
    auto_dedent: bool,
    context: int | None,
) -> JudgeTemplate:
    """template: as in JudgeSettings. file_text: what it holds where it names a file. context: the judge's.

    Raises ConfigError for a template that is none, and for labels that a built-in does not ask for.
    """
    variables = PAIRWISE if mode == "pairwise" else POINTWISE
    if callable(template):
        return JudgeTemplate(template_fn=template, variables=variables)
    name, known = _name(template, mode, context), builtin_names(variables)
    if name in known:
        _check_labels(name, labels)
        return JudgeTemplate.builtin(name, variables)
    if file_text:
        return JudgeTemplate(file_text, auto_dedent=auto_dedent, variables=variables)
    if "{{" not in name:
        raise ConfigError(
            f"judge template {name!r} is neither a built-in of mode {mode!r} ({', '.join(known)}, "
            f"auto) nor a text with {placeholders(variables)}"
        )
    return JudgeTemplate(name, auto_dedent=auto_dedent, variables=variables)


def _name(template: str, mode: str, context: int | None) -> str:
    if template != "auto":
        return template
    if mode == "pairwise":
        return "pairwise"
    return "additive_small" if context is not None and context < _SMALL_CONTEXT else "additive"


def _check_labels(template: str, labels: tuple[str, str]) -> None:
    if labels != LABELS:
        raise ConfigError(
            f"the built-in judge template {template!r} asks for {' or '.join(LABELS)}, so labels="
            f"{labels!r} would be read where the judge writes neither; leave labels out, or give a "
            "template of your own that asks for them"
        )
