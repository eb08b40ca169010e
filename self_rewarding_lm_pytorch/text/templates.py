"""Chat templates of our own, for tokenizers that bring none, and rendering for codecs that cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.records import Conversation

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRANSCRIPT = (
    "{% set names = {'system': 'System', 'user': 'User', 'assistant': 'Assistant'} %}"
    "{% for message in messages %}{{ names[message['role']] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "transcript": TRANSCRIPT}
"""By name. `transcript` needs no special tokens; `chatml` needs its marks to be special tokens."""

CHATML_MARKS = ("<|im_start|>", "<|im_end|>")


def marks_are_missing(said: str) -> ConfigError:
    """Where `chatml` is asked of a tokenizer that would write its marks as plain text."""
    return ConfigError(
        f"chat.template chatml marks turns with {' and '.join(CHATML_MARKS)}, but {said}, so a text could "
        "end its own turn by spelling them; take chat: {template: transcript}, or a tokenizer that has them"
    )


def compiled(source: str) -> Any:
    """A sandboxed jinja template with `raise_exception`. Raises ConfigError where it is not valid."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ConfigError(
            f"chat.template is no valid jinja template ({error}): {source[:80]!r}; give a jinja file, a "
            f"template's text, or one of {', '.join(TEMPLATES)}"
        ) from error


def rendered(template: Any, conversation: Conversation, generate: bool, arguments: Mapping[str, Any]) -> str:
    """The text of a compiled template."""
    messages = [{"role": turn.role, "content": turn.content} for turn in conversation]
    return str(template.render(messages=messages, add_generation_prompt=generate, **arguments))
