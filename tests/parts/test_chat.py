"""A conversation with a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.parts.chat import Chat
from self_rewarding_lm_pytorch.stages.base import Environment
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from tests.parts.worlds import CHATML, environment, write_model

JUDGE = JudgeSettings(template="{{ prompt }} {{ response }}", votes=2, unparsed="force", max_new_tokens=4)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("chatty")
    write_model(folder, template=CHATML, context=120)
    return environment(folder)


def talk(env: Environment, *, max_new_tokens: int = 8, system: str | None = None) -> Chat:
    return Chat(env, sampling=Sampling(1.0), max_new_tokens=max_new_tokens, system=system)


def test_answers_come_in_pieces_that_are_the_answer(env: Environment) -> None:
    pieces: list[str] = []
    reply = talk(env).answer("hello", pieces.append)
    assert "".join(pieces) == reply.text
    assert len(pieces) > 2, "as tokens come, not at the end"


def test_an_answer_depends_on_what_was_said_before(env: Environment) -> None:
    one, other = talk(env), talk(env)
    one.answer("hello", str)
    other.answer("goodbye", str)
    assert one.answer("why?", str) != other.answer("why?", str)


def test_the_same_words_and_seed_give_the_same_answers(env: Environment) -> None:
    said = [[chat.answer(text, str).text for text in ("hello", "why?")] for chat in (talk(env), talk(env))]
    assert said[0] == said[1]


def test_reset_forgets_what_was_said(env: Environment) -> None:
    codec, chat = env.needed_codec("x"), talk(env, system="be kind")
    chat.answer("hello", str)
    chat.reset()
    prompt = codec.decode(codec.prompt_ids(chat.turns_with("why?")))
    assert "hello" not in prompt
    assert "be kind" in prompt


def test_the_model_judges_its_last_answer(env: Environment) -> None:
    chat = talk(env)
    with pytest.raises(DataError, match="no answer to judge yet"):
        chat.judged(JUDGE)
    chat.answer("hello", str)
    judgment = chat.judged(JUDGE)
    assert {vote.index for vote in judgment.votes} == {0, 1}
    assert judgment.score is not None
    assert judgment == chat.judged(JUDGE)
    chat.reset()
    with pytest.raises(DataError, match="no answer to judge yet"):
        chat.judged(JUDGE)


def test_a_full_context_is_said_and_the_conversation_stays(env: Environment) -> None:
    chat = talk(env)
    with pytest.raises(DataError, match="leaves no room for an answer"):
        chat.answer("x" * 200, str)
    short = chat.answer("hi", str)
    assert 0 < len(short.ids) <= 8


def test_an_answer_is_shortened_to_what_the_context_leaves(env: Environment) -> None:
    chat = talk(env, max_new_tokens=500)
    reply = chat.answer("hello", str)
    assert len(reply.ids) < 120


def test_without_a_chat_template_a_second_question_names_the_remedy(there: Path) -> None:
    chat = talk(environment(there / "tiny"))
    first = chat.answer("hello", str)
    assert first.ids
    with pytest.raises(DataError, match="chat template"):
        chat.answer("why?", str)
