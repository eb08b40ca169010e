"""How a plan says that prompts are put into chat: `chat:`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from self_rewarding_lm_pytorch.data.lines import unreadable
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.stages.base import Settings
from self_rewarding_lm_pytorch.text import Chat, Codec, FunctionCodec, HuggingFaceCodec, Reasoning
from self_rewarding_lm_pytorch.text.templates import TEMPLATES

_OURS = (
    *("messages", "conversation", "add_generation_prompt", "continue_final_message", "chat_template"),
    *("tokenize", "tokenizer_kwargs", "sanitize_control_tokens", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask"),
)  # what the template or transformers' apply_chat_template is given by us, or must not be


_LONGEST_NAME = 1_000


class ReasoningSettings(Settings):
    """The marks around what a thinking model writes before its answer."""

    begin: Annotated[str, Field(min_length=1)] = "<think>"  # Qwen3's and DeepSeek-R1's
    end: Annotated[str, Field(min_length=1)] = "</think>"


class JudgeChatSettings(Settings):
    """The judge's own use of the template.

    template_arguments: null: as for the policy.
    """

    system: str | None = None
    template_arguments: dict[str, Any] | None = None


class ChatSettings(Settings):
    """How prompts are put into chat, for training and sampling alike.

    system: what the system says where a conversation does not have it say something itself; "" is a system
        that says nothing, for templates that otherwise fill in words of their own. Where the template has no
        place for it, it is put before the user's first message.
    template: a jinja file, a template's text, or one of ours: chatml, transcript. Default: the tokenizer's.
    template_arguments: what the template takes besides messages, such as {enable_thinking: false}.
    judge: the same of judge prompts, which have no system text by default. A judge of another model is
        shown them in that model's own template.
    reasoning: where given, judges and reward functions are shown responses without their reasoning, a
        response that never ended it has no score, and a judge's vote is read behind its own reasoning. What
        is trained on stays whole.
    """

    system: str | None = None
    template: Annotated[str, Field(min_length=1)] | None = None
    template_arguments: dict[str, Any] = Field(default_factory=dict)
    judge: JudgeChatSettings = Field(default_factory=JudgeChatSettings)
    reasoning: ReasoningSettings | None = None

    @model_validator(mode="after")
    def _no_argument_of_ours(self) -> ChatSettings:
        for arguments in (self.template_arguments, self.judge.template_arguments or {}):
            if wrong := [name for name in arguments if name in _OURS]:
                raise ValueError(
                    f"template_arguments {wrong[0]!r} is given by the library itself; leave it out, or give "
                    "the template it should be as chat.template"
                )
        return self

    def chat(self, base: Path | None) -> Chat:
        """As codecs take it. Raises ConfigError for a template that is no file, name or text."""
        reasoning = None if self.reasoning is None else Reasoning(self.reasoning.begin, self.reasoning.end)
        return Chat(
            self.system,
            _source(self.template, base),
            self.template_arguments,
            reasoning,
            self.judge.system,
            self.judge.template_arguments,
        )

    def applied(self, codec: Codec | None, base: Path | None) -> Codec:
        """The codec that renders so. Raises ConfigError where it cannot."""
        chat = self.chat(base)
        if codec is None:
            raise ConfigError(
                "chat says how text is put to the model, but there is no tokenizer; give one with the model, "
                "or leave chat out"
            )
        if not isinstance(codec, HuggingFaceCodec | FunctionCodec):
            raise ConfigError(
                "chat says how text is put to the model, but the tokenizer given is a "
                f"{type(codec).__name__}, which does that itself; leave chat out, or give a Hugging Face "
                "tokenizer"
            )
        made = codec.with_chat(chat)
        if self.template_arguments and not made.has_chat_template:
            raise ConfigError(
                f"chat.template_arguments are {self.template_arguments}, but the tokenizer has no chat "
                "template to take them; give one (chat.template), or leave them out"
            )
        return made


def other_judge(codec: Codec, own: Codec | None) -> Codec:
    """The codec of a judge of another model, used as a plan says that judges use theirs.

    own: the run's, which knows the plan's settings.
    """
    known = getattr(own, "chat", None)
    if not isinstance(known, Chat) or not isinstance(codec, HuggingFaceCodec | FunctionCodec):
        return codec
    judge = known.for_judge()
    arguments = judge.arguments if codec.has_chat_template else {}
    return codec.with_chat(
        Chat(judge.system, arguments=arguments, reasoning=judge.reasoning, judge_system=judge.system)
    )


def chat_notes(codec: Codec | None) -> list[str]:
    """What people should know of how their texts are put into chat."""
    notes = []
    if getattr(codec, "has_merged_system", False):
        notes.append(
            "the chat template has no place for what a system says, so it is put before the user's first "
            "message"
        )
    if getattr(codec, "tells_time", False):
        notes.append(
            "the chat template writes today's date into prompts, so a run that goes on tomorrow has two "
            "kinds of them; fix it (chat: {template_arguments: {date_string: ...}}, where the template "
            "takes that)"
        )
    return notes


def _source(template: str | None, base: Path | None) -> str | None:
    """A template's text, or the name of one of ours."""
    if template is None or template in TEMPLATES:
        return template
    if "{{" in template or "{%" in template:
        return template
    is_name = len(template) < _LONGEST_NAME and "\n" not in template
    place = (base or Path()) / template if is_name else Path()
    place = place if not is_name or place.exists() else Path(template)
    if not place.is_file():
        raise ConfigError(
            f"chat.template {template!r:.120} is no file, and neither {' nor '.join(TEMPLATES)}, nor a jinja "
            "template's text; correct the name"
        )
    try:
        return place.read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(place, error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"chat.template {template!r} is no text in UTF-8: {error}; save it as that"
        ) from error
