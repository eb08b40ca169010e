"""`chat:` in a plan: system texts, templates, the judge's own use, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from self_rewarding_lm_pytorch.records import Message
from self_rewarding_lm_pytorch.stages.chat_settings import ChatSettings, chat_notes
from self_rewarding_lm_pytorch.text import (
    Chat,
    Codec,
    FunctionCodec,
    HuggingFaceCodec,
    examples_from_conversation,
    judging_codec,
    transcript,
)
from tests.chat.families import tokenizer
from tests.chat.test_families import talk
from tests.helpers import byte_codec
from tests.stages.worlds import plan


def shown(codec: Codec, prompt: Any) -> str:
    assert isinstance(codec, HuggingFaceCodec)
    return str(codec.tokenizer.decode(codec.prompt_ids(prompt)))


def applied(family: str, **settings: Any) -> Codec:
    return ChatSettings(**settings).applied(HuggingFaceCodec(tokenizer(family)), None)


def test_the_plans_system_text_comes_first_where_a_conversation_has_none() -> None:
    codec = applied("llama3", system="Be kind.")
    assert "system<|end_header_id|>\n\nBe kind.<|eot_id|>" in shown(codec, "why?")
    assert "Be kind." not in shown(codec, talk("why?", system="Be brief."))


def test_an_empty_system_text_silences_the_templates_own() -> None:
    assert "You are helpful." in shown(applied("qwen"), "why?")
    assert "You are helpful." not in shown(applied("qwen", system=""), "why?")
    assert shown(applied("gemma", system=""), "why?") == shown(applied("gemma"), "why?")


def test_judges_are_shown_no_system_text_unless_theirs_is_given() -> None:
    codec = applied("llama3", system="Be kind.")
    assert "system" not in shown(judging_codec(codec), "rate this")
    strict = applied("llama3", system="Be kind.", judge={"system": "Be strict."})
    assert "Be strict." in shown(judging_codec(strict), "rate this")
    assert "Be strict." not in shown(strict, "why?")


def test_the_judge_may_use_other_template_arguments_or_the_policys() -> None:
    off, on = {"enable_thinking": False}, {"enable_thinking": True}
    ends = "<think>\n\n</think>\n\n"
    assert shown(judging_codec(applied("qwen3", template_arguments=off)), "x").endswith(ends)
    own = applied("qwen3", template_arguments=off, judge={"template_arguments": on})
    assert shown(own, "x").endswith(ends)
    assert not shown(judging_codec(own), "x").endswith(ends)


def test_a_template_without_a_system_role_has_it_in_the_first_users_message() -> None:
    codec = applied("gemma", system="Be kind.")
    assert "no place for what a system says" in chat_notes(codec)[0]
    assert chat_notes(applied("llama3", system="Be kind.")) == []
    other = applied("gemma")
    assert chat_notes(other) == []
    other.prompt_ids(talk("why?", system="Be kind."))
    assert chat_notes(other), "a conversation's own is told as well"
    assert shown(codec, "why?").startswith("<bos><start_of_turn>user\nBe kind.\n\nwhy?<end_of_turn>")


def test_the_transcript_template_begins_a_sequence_as_the_tokenizer_does() -> None:
    codec = applied("llama2", template="transcript")
    ids = codec.prompt_ids(talk("why?", "so", "and?"))
    assert isinstance(codec, HuggingFaceCodec)
    assert ids[0] == codec.tokenizer.bos_token_id
    assert ids.count(codec.tokenizer.bos_token_id) == 1
    assert len(examples_from_conversation(codec, talk("why?", "so", "and?", "that"))) == 1


def test_checkpoints_bring_the_template_along() -> None:
    codec = applied("gpt2", template="transcript")
    assert isinstance(codec, HuggingFaceCodec)
    assert "Assistant:" in codec.tokenizer.chat_template


def test_chatml_needs_its_marks_as_special_tokens() -> None:
    with pytest.raises(ConfigError, match=r"im_start.*transcript"):
        applied("gpt2", template="chatml")
    assert shown(applied("qwen", template="chatml"), "Hi").endswith(
        "user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_may_be_a_file_beside_the_plan(tmp_path: Path) -> None:
    text = "{% for m in messages %}# {{ m['content'] }}\n{% endfor %}>"
    (tmp_path / "own.jinja").write_text(text, encoding="utf-8")
    codec = ChatSettings(template="own.jinja").applied(HuggingFaceCodec(tokenizer("gpt2")), tmp_path)
    assert shown(codec, "why?") == "# why?\n>"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"template": "chatlm"}, "neither chatml nor transcript"),
        ({"template": "none.jinja"}, "is no file"),
        ({"template": "{{ messages"}, "cannot render a question"),
        ({"template": "{{ raise_exception('no') }}"}, "cannot render a question"),
        ({"template_arguments": {"enable_thinking": False}}, "no chat template"),
        ({"template": "x" * 5_000}, "is no file"),
    ],
)
def test_what_cannot_be_rendered_is_told_before_anything_else(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        applied("gpt2", **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sytem": "Be kind."}, "did you mean 'system'"),
        ({"judge": {"sytem": "x"}}, "did you mean 'system'"),
        ({"reasoning": {"begin": ""}}, "chat.reasoning.begin"),
        ({"template_arguments": {"messages": []}}, "given by the library"),
        ("chatml", "chat"),
    ],
)
def test_a_plan_with_other_keys_says_what_is_known(tmp_path: Path, settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_plan(plan(tmp_path, "seed", chat=settings))


def test_a_tokenizer_that_renders_itself_takes_no_chat_settings() -> None:
    class Own:
        eos_ids = (0,)

    with pytest.raises(ConfigError, match="does that itself"):
        ChatSettings(system="x").applied(Own(), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no tokenizer"):
        ChatSettings(system="x").applied(None, None)


@pytest.mark.parametrize("family", ["gpt2", "bytes"])
def test_without_a_template_a_conversation_is_refused_with_the_key_that_helps(family: str) -> None:
    codec = byte_codec() if family == "bytes" else HuggingFaceCodec(tokenizer(family))
    with pytest.raises(DataError, match=r"chat: \{template"):
        codec.prompt_ids(talk("a?", "b", "c?"))
    asked = talk("why?", system="Be kind.")
    assert codec.prompt_ids(asked) == codec.prompt_ids("Be kind.\n\nwhy?")


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (talk("a", "b"), "must end with the user's"),
        ((Message("user", "a"), Message("user", "b")), "turn 2 of a conversation is the user's"),
        ((Message("assistant", "a"),), "turn 1"),
        ((Message("user", "a"), Message("system", "b")), "turn 2 of a conversation is the system's"),
        ((), "is empty"),
        ((Message("system", "a"),), "ends with the system's"),
    ],
)
def test_roles_out_of_order_are_told_by_their_turn(turns: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        HuggingFaceCodec(tokenizer("qwen")).prompt_ids(turns)


def test_a_turn_that_the_template_refuses_is_named() -> None:
    refuses = (
        "{% for m in messages %}{% if 'bad' in m['content'] %}{{ raise_exception('not that') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    codec = HuggingFaceCodec(tokenizer("gpt2")).with_chat(Chat(template=refuses))
    with pytest.raises(DataError, match=r"turn 2 of 3, the assistant's \('bad'\): not that"):
        codec.prompt_ids(talk("a", "bad", "c"))


def test_a_transcript_names_who_speaks_and_a_lone_question_is_itself() -> None:
    assert transcript(talk("why?")) == "why?"
    assert (
        transcript(talk("a?", "b", "c?", system="s")) == "System: s\n\nUser: a?\n\nAssistant: b\n\nUser: c?"
    )


def byte_chat() -> FunctionCodec:
    return byte_codec().with_chat(Chat(template="transcript"))


def test_a_template_that_is_no_jinja_is_told_for_functions_too() -> None:
    with pytest.raises(ConfigError, match="no valid jinja"):
        byte_codec().with_chat(Chat(template="{% for %}"))
    with pytest.raises(ConfigError, match="no special tokens"):
        byte_codec().with_chat(Chat(template="chatml"))


def test_a_pair_of_functions_can_use_a_template_of_text() -> None:
    codec = byte_chat()
    assert (
        bytes(codec.prompt_ids(talk("a?", "b", "c?")))
        == b"User: a?\n\nAssistant: b\n\nUser: c?\n\nAssistant:"
    )
    assert codec.decode(codec.response_ids("a?", "so")) == "so"
    assert bytes(codec.response_ids("a?", "so")) == b" so\0"
