"""Conversations as prompts, as items and as pairs, in stages that sample and train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.data.item_file import examples_in
from self_rewarding_lm_pytorch.data.items import given_pairs, supervised_examples
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.judges.text_reward import TextRewardJudge
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.pipeline.models import environment
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import Candidate, PreferencePair, Prompt
from self_rewarding_lm_pytorch.stages.base import Environment, StageRun
from self_rewarding_lm_pytorch.stages.judging import JudgeSettings
from self_rewarding_lm_pytorch.stages.prompts import kept_prompts, read_prompts
from self_rewarding_lm_pytorch.text import Chat, HuggingFaceCodec, judging_codec, transcript
from self_rewarding_lm_pytorch.training.metrics import MetricsLog
from tests.chat.families import tokenizer
from tests.chat.test_families import talk
from tests.helpers import Script, byte_codec, candidate, recurrent
from tests.stages.worlds import QUIET, STAGES, plan

CONVERSATIONS = [
    {
        "messages": [
            {"role": r, "content": c} for r, c in (("user", f"q{i}?"), ("assistant", "a"), ("user", "so?"))
        ]
    }
    for i in range(4)
]


def environment_of(made: Any) -> Environment:
    from accelerate import Accelerator

    return environment(made, Reporter(quiet=True), Accelerator(cpu=True))


def sampled(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = plan(folder, **{"chat": {"template": "transcript"}, **changes})
    stage = {
        **STAGES["text"],
        "prompts": [*CONVERSATIONS, {"messages": [{"role": "user", "content": "alone?"}]}],
    }
    settings["stages"] = [{"name": "own", **stage}]
    return settings


def test_conversations_are_prompts_of_a_sampling_stage(
    tmp_path: Path,
) -> None:
    run(sampled(tmp_path), reporter=QUIET)
    folder = tmp_path / "stages" / "01-own"
    kept = json.loads((folder / "items" / "prompts.json").read_text(encoding="utf-8"))
    assert kept[0] == CONVERSATIONS[0]["messages"]
    assert kept[4:] == ["alone?"]
    candidates = ShardStore(folder).read_all(Candidate)
    assert {candidate.prompt_index for candidate in candidates} == set(range(5))


def test_kept_prompts_are_the_same_prompts_again(tmp_path: Path) -> None:
    made = load_plan(sampled(tmp_path))
    env = environment_of(made)
    stage = StageRun(env, 1, "own", tmp_path / "own", MetricsLog(tmp_path / "metrics.jsonl", "own"))
    first = read_prompts(env, made.stages[0].prompts, "own")
    assert kept_prompts(stage, first) == first
    assert kept_prompts(stage, []) == first
    assert first[0].turns == talk("q0?", "a", "so?")
    assert first[0].text == "User: q0?\n\nAssistant: a\n\nUser: so?"
    assert first[4].turns == ()


def test_reward_functions_are_shown_the_transcript(tmp_path: Path) -> None:
    seen: set[str] = set()

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        seen.update(prompts)
        return [float(number) for number in range(len(responses))]

    settings = sampled(tmp_path)
    settings["stages"][0]["reward"] = reward
    run(settings, reporter=QUIET)
    assert "User: q0?\n\nAssistant: a\n\nUser: so?" in seen
    assert "alone?" in seen


def test_judges_are_shown_earlier_answers_without_their_reasoning(tmp_path: Path) -> None:
    seen: set[str] = set()

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        seen.update(prompts)
        return [float(number) for number in range(len(responses))]

    settings = sampled(tmp_path)
    settings["chat"]["reasoning"] = {}
    asked = talk("q?", "<think>hm</think>\n\na", "so?")
    settings["stages"][0] |= {"reward": reward, "prompts": [{"messages": rows_of(asked)}] * 2}
    run(settings, reporter=QUIET)
    assert seen == {"User: q?\n\nAssistant: a\n\nUser: so?"}
    kept = (tmp_path / "stages/01-own/items/prompts.json").read_text(encoding="utf-8")
    assert "<think>hm" in kept, "the model reads what its template makes of all of it"


@pytest.mark.parametrize("kind", ["seed", "given", "play"])
def test_stages_train_on_conversations(tmp_path: Path, kind: str) -> None:
    turns = [{"role": turn.role, "content": turn.content} for turn in talk("a?", "b", "c?", "d")]
    given = {"prompt": turns[:-1], "chosen": "yes", "rejected": "no"}
    settings = plan(tmp_path, kind, chat={"template": "transcript"})
    settings["stages"][0]["data"] = [given if kind == "given" else {"messages": turns}] * 4
    run(settings, reporter=QUIET)
    store = ShardStore(tmp_path / "stages" / f"01-{kind}")
    if kind == "play":
        pairs = store.read_all(PreferencePair)
        assert {pair.chosen for pair in pairs} == {"d"}
        assert bytes(pairs[0].prompt_ids).endswith(b"User: c?\n\nAssistant:")


def rows_of(conversation: Any) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.content} for turn in conversation]


def test_a_stage_trains_on_the_answers_that_have_weight(tmp_path: Path) -> None:
    messages = rows_of(talk("a?", "b", "c?", "d", "e?", "f"))
    for place, weight in ((1, 0), (3, 1), (5, 0)):
        messages[place] |= {"weight": weight}
    (tmp_path / "talks.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 4)
    settings = plan(tmp_path / "run", "seed", chat={"template": "transcript"})
    settings["stages"][0]["data"] = str(tmp_path / "talks.jsonl")
    run(settings, reporter=QUIET)
    for example in examples_in(tmp_path / "run" / "stages" / "01-seed" / "items" / "data.arrow"):
        assert bytes(example.ids[example.is_target].tolist()) == b" d\0"
        assert b"Assistant: b" in bytes(example.ids.tolist())


def test_a_last_answer_of_weight_0_is_refused_by_self_play_with_its_row(tmp_path: Path) -> None:
    turns = rows_of(talk("a?", "b", "c?", "d"))
    settings = plan(tmp_path, "play", chat={"template": "transcript"})
    settings["stages"][0]["data"] = [
        {"messages": turns},
        {"messages": [*turns[:3], {**turns[3], "weight": 0}]},
    ]
    with pytest.raises(DataError, match="item 1: the last answer has weight 0, but here the last answer"):
        run(settings, reporter=QUIET)


def test_a_conversation_that_cannot_be_rendered_is_told_with_its_row() -> None:
    talks = [{"messages": rows_of(talk("a?", "b"))}, {"messages": rows_of(talk("a?", "b", "c?", "d"))}]
    with pytest.raises(DataError, match=r"item 1: .*needs a chat template"):
        supervised_examples(talks, recurrent(vocab=256), byte_codec())
    pairs = [{"prompt": rows_of(talk("a?", "b", "c?")), "chosen": "yes", "rejected": "no"}]
    with pytest.raises(DataError, match=r"pair 0: .*needs a chat template"):
        given_pairs(pairs, recurrent(vocab=256), byte_codec())


def test_a_thinking_models_conversation_becomes_several_items() -> None:
    codec = HuggingFaceCodec(tokenizer("qwen3"))
    turns = talk("2 + 2?", "<think>twos</think>4", "3 + 3?", "<think>double</think>6")
    found = supervised_examples([{"messages": rows_of(turns)}], recurrent(vocab=512), codec)
    assert len(found) == 2
    last = supervised_examples([{"messages": rows_of(turns)}], recurrent(vocab=512), codec, last_only=True)
    assert len(last) == 1
    assert torch.equal(last[0].ids, found[1].ids)


def test_a_pair_behind_a_conversation_shares_its_prompt() -> None:
    codec, asked = HuggingFaceCodec(tokenizer("llama3")), talk("a?", "b", "c?")
    row = {"prompt": rows_of(asked), "chosen": "yes", "rejected": "no"}
    (pair,) = given_pairs([row], recurrent(vocab=512), codec)
    head = codec.prompt_ids(asked)
    for side, text in ((pair.chosen, "yes"), (pair.rejected, "no")):
        assert tuple(side.ids[: len(head)].tolist()) == head
        assert codec.decode(side.ids[side.is_target].tolist()) == text


class LastToken(nn.Module):
    """The reward is how many tokens were read, so that another prompt would show."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.full((len(ids),), float(ids.shape[1]))


def test_a_reward_model_of_text_reads_the_turns_and_not_their_transcript() -> None:
    codec, turns = HuggingFaceCodec(tokenizer("llama3")), talk("a?", "b", "c?")
    (found,) = TextRewardJudge(LastToken(), codec).judge(
        [(Prompt(0, transcript(turns), (), turns), candidate(0, 0, "so"))]
    )
    assert found.score == len(codec.prompt_ids(turns)) + len(codec.response_ids(turns, "so"))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with Llama 3's template, as a folder."""
    return small_llama(tmp_path_factory.mktemp("judge"), "llama3")


def test_a_judge_of_another_model_is_asked_in_its_own_template_as_the_plan_says(
    tmp_path: Path, other_model: Path
) -> None:
    chat = {"system": "Be kind.", "template": "transcript", "judge": {"system": "Be strict."}}
    env = environment_of(load_plan(plan(tmp_path, "seed", chat=chat)))
    _, codec = JudgeSettings(model=str(other_model)).judge_model(env, "own")
    assert isinstance(codec, HuggingFaceCodec)
    shown = codec.tokenizer.decode(codec.prompt_ids("rate this"))
    assert shown.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe strict.")
    own = JudgeSettings().judge_model(env, "own")[1]
    assert bytes(own.prompt_ids("rate this")) == b"System: Be strict.\n\nUser: rate this\n\nAssistant:"


def small_llama(folder: Path, family: str) -> Path:
    import transformers

    made = tokenizer(family)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.LlamaConfig(vocab_size=512, max_position_embeddings=512, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def test_a_trained_checkpoint_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    """The template that a plan gave a model without one is in its checkpoints."""
    from self_rewarding_lm_pytorch.models.load import load_policy

    settings = plan(tmp_path / "run", "seed", chat={"template": "transcript"})
    settings["model"] = str(small_llama(tmp_path / "model", "gpt2"))
    settings["stages"][0] |= {"data": [{"messages": rows_of(talk("a?", "b", "c?", "d"))}] * 4}
    run(settings, reporter=QUIET)
    stage = tmp_path / "run" / "stages" / "01-seed"
    (example, *_) = examples_in(stage / "items" / "data.arrow")
    _, codec = load_policy(str(stage / "checkpoint"))
    assert codec is not None
    asked = codec.prompt_ids(talk("a?", "b", "c?"))
    assert tuple(example.ids[: len(asked)].tolist()) == asked


def test_judge_examples_are_trained_on_as_the_judge_is_shown_them(tmp_path: Path) -> None:
    """With a system text of the policy's own: it stands in answers' prompts and in no judge's."""
    codec = byte_codec().with_chat(Chat(system="Be kind."))
    assert bytes(codec.prompt_ids("rate this")) == b"Be kind.\n\nrate this"
    assert bytes(judging_codec(codec).prompt_ids("rate this")) == b"rate this"
    responses = [{"prompt": f"q{i}?", "responses": ["good", "bad"], "ranks": [0, 1]} for i in range(4)]
    judge = {"template": "p {{ prompt }} r {{ response }}\x01", "max_new_tokens": 12}
    scorer = {"model": Script(b"Score: ?"), "tokenizer": byte_codec()}  # a score at random behind byte 1
    settings = plan(tmp_path, "seed", chat={"system": "Be kind."}, **scorer)
    judge_data = {"data": responses, "judge": judge, "held_out": 0, "max_share": 1}
    settings["stages"][0] |= {"judge_data": judge_data}
    run(settings, reporter=QUIET)
    items = tmp_path / "stages" / "01-seed" / "items"
    shown = [bytes(example.ids.tolist()) for example in examples_in(items / "judge-data.arrow")]
    assert shown and all(each.startswith(b"p q") for each in shown)
    trained = [bytes(example.ids.tolist()) for example in examples_in(items / "data.arrow")]
    assert all(each.startswith(b"Be kind.\n\nq") for each in trained)


class TextsOnly:
    """A codec of a user's own, from before there were conversations: prompts are texts."""

    eos_ids = (0,)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return tuple(prompt.encode())

    def response_ids(self, prompt: str, response: str) -> tuple[int, ...]:
        return (*prompt.encode()[:0], *response.encode(), 0)

    def continuation_ids(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode()


def test_a_codec_that_knows_texts_alone_goes_on_working_with_them() -> None:
    codec: Any = TextsOnly()
    (item,) = supervised_examples([{"prompt": "a?", "response": "b"}], recurrent(vocab=256), codec)
    assert bytes(item.ids.tolist()) == b"a?b\0"
    row = {"prompt": "a?", "chosen": "b", "rejected": "c"}
    (pair,) = given_pairs([row], recurrent(vocab=256), codec)
    assert bytes(pair.rejected.ids.tolist()) == b"a?c\0"
