"""The stories example: its reward, its prompt sets, and its whole plan on the real model, scaled down."""

import importlib.util
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch import run
from self_rewarding_lm_pytorch.data.item_file import examples_in
from self_rewarding_lm_pytorch.data.store import ShardStore
from self_rewarding_lm_pytorch.judges.function import load_reward_function
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.records import PreferencePair, Prompt
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"
STORIES = EXAMPLES / "stories"

OPENING = "One day, Lily got a new ball. She wanted to show it to a friend."
GOOD = ' She ran to the park and saw Tom. "Do you want to play with me?" Lily asked. They played until night.'

Reward = Callable[[list[str], list[str]], list[float]]


@pytest.fixture(scope="module")
def reward() -> Reward:
    return load_reward_function("stories/reward.py:story_reward", base=EXAMPLES)


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def openings(name: str) -> list[str]:
    lines = (STORIES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def test_a_good_continuation_has_nearly_the_full_reward(reward: Reward) -> None:
    assert reward([OPENING], [GOOD])[0] > 0.95


@pytest.mark.parametrize(
    "babble",
    [
        "",
        " ",
        "...",
        '"!"',
        " Lily.",
        "\ufffd\ufffd\ufffd \ufffd\ufffd.",
        ' "asdf qwer zxcv uiop." Lily hjkl bnmt wert sdfg xcvb rtyu fghj vbnm tyui ghjk.',
        ' "Lily Lily Lily Lily." ' + "Lily " * 20 + ".",
        ' "!?.,;:" - - - (((Lily))) *** 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20.',
        " ball dog cat tree house car boat Lily park farm fish bird cake duck frog bear lion zoo.",
    ],
)
def test_babble_is_worth_next_to_nothing(reward: Reward, babble: str) -> None:
    assert reward([OPENING], [babble])[0] < 0.15


def test_each_fault_costs_something(reward: Reward) -> None:
    faults = {
        "nobody speaks": GOOD.replace('"', ""),
        "the last sentence is cut off": GOOD.removesuffix(" until night."),
        "the character is forgotten": GOOD.replace("Lily", "Anna"),
        "a sentence is repeated": GOOD + " They played until night.",
        "the quotation is left open": GOOD.replace('me?"', "me?"),
    }
    (best,) = reward([OPENING], [GOOD])
    for fault, text in faults.items():
        assert reward([OPENING], [text])[0] < best - 0.05, fault


def test_length_alone_wins_nothing(reward: Reward) -> None:
    longer = GOOD + " Then the two friends went home and had some soup."
    assert reward([OPENING], [longer])[0] <= reward([OPENING], [GOOD])[0]


def test_rewards_stand_in_the_order_of_the_responses_and_belong_to_their_prompts(reward: Reward) -> None:
    other = OPENING.replace("Lily", "Ben")
    first, second, third = reward([OPENING, other, OPENING], [GOOD, GOOD, ""])
    assert first > second > third


def test_a_reward_is_a_float_from_0_to_1_for_any_text(reward: Reward) -> None:
    texts = [GOOD, "", "\n", '"', '""', "a" * 10_000, "a. " * 1000, "漢字。", '" "' * 50]
    rewards = reward(["", *[OPENING] * (len(texts) - 1)], texts)
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in rewards)


def test_the_openings_are_different_and_the_held_out_ones_were_never_trained_on() -> None:
    training, held_out = openings("prompts.jsonl"), openings("heldout.jsonl")
    assert (len(training), len(held_out)) == (600, 200)
    assert len({*training, *held_out}) == len(training) + len(held_out)
    sft = {json.loads(line)["prompt"] for line in (STORIES / "sft.jsonl").read_text("utf-8").splitlines()}
    assert sft <= set(training)


def test_the_shipped_openings_are_those_the_script_makes() -> None:
    assert imported(STORIES / "make_prompts.py").chosen() == (
        openings("prompts.jsonl"),
        openings("heldout.jsonl"),
    )


def test_the_sft_responses_are_short_and_end_with_a_sentence() -> None:
    rows = [json.loads(line) for line in (STORIES / "sft.jsonl").read_text("utf-8").splitlines()]
    assert all(row["response"].rstrip('"')[-1] in ".!?" for row in rows)
    assert all(row["response"][0] in " \n" for row in rows), "the blank before a word belongs to it"
    assert max(len(row["response"]) for row in rows) < 400


def test_a_sample_is_cut_to_its_whole_sentences() -> None:
    whole_sentences = imported(STORIES / "sample_sft.py").whole_sentences
    assert whole_sentences(' Tom ran. He said, "I am. I') == " Tom ran."
    assert whole_sentences(' "Hi!" said Tom. Then') == ' "Hi!" said Tom.'
    assert whole_sentences(' Tom said, "Go!" and') == ' Tom said, "Go!"'
    assert whole_sentences(" Tom ran and") == ""


SMALL = (
    "stages.shorten.num_steps=3",
    "stages.self-play.opponent.max_new_tokens=8",
    "stages.self-play.num_steps=2",
    "stages.story-reward.num_prompts=8",
    "stages.story-reward.candidates.num=2",
    "stages.story-reward.candidates.max_new_tokens=24",
    "stages.story-reward.num_steps=1",
    "stages.story-reward.replay_batch_size=4",
    "stages.self-reward.num_prompts=6",
    "stages.self-reward.num_pairs=2",
    "stages.self-reward.candidates.max_new_tokens=16",
)


@pytest.fixture(scope="module")
def small_run(stories_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The shipped plan from its YAML file, with few prompts and steps."""
    folder = tmp_path_factory.mktemp("stories") / "run"
    few = folder.parent / "few.jsonl"
    lines = (STORIES / "sft.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    few.write_text("".join(lines[:24]), encoding="utf-8")
    places = [f"model={stories_folder}", f"run={folder}"]
    places += [f"stages.{key}={few}" for key in ("shorten.data", "self-play.data", "story-reward.replay")]
    overrides = [*SMALL, *places]
    return folder, run(EXAMPLES / "stories.yaml", overrides=overrides, reporter=Reporter(quiet=True))


def test_the_plan_runs_all_four_stages(small_run: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = small_run
    kinds = [stage["kind"] for stage in summary["stages"]]
    assert kinds == ["sft", "spin", "external_reward", "self_reward"]
    assert (summary["schema"], summary["status"], summary["evaluation"]) == (1, "completed", [])
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == summary


def test_the_summary_has_its_promised_keys(small_run: tuple[Path, dict[str, Any]]) -> None:
    stage_keys = {"name", "kind", "checkpoint", "num_pairs", "yield", "tokens_generated", "generate_seconds"}
    stage_keys |= {"judge_seconds", "train_seconds", "metrics"}
    yield_keys = {"prompts", "visits", "candidates", "votes", "votes_parsed", "votes_forced"}
    yield_keys |= {"votes_unparsed", "pairs", "skipped"}
    for stage in small_run[1]["stages"]:
        assert set(stage) == stage_keys
        assert set(stage["yield"]) == yield_keys


def test_the_pairs_are_stored_and_the_better_story_is_chosen(
    small_run: tuple[Path, dict[str, Any]], reward: Reward
) -> None:
    folder, summary = small_run
    for stage in summary["stages"][2:]:
        place = (folder / stage["checkpoint"]).parent
        pairs = ShardStore(place).read_all(PreferencePair)
        assert len(pairs) == stage["num_pairs"] > 0
        assert all(pair.chosen_score > pair.rejected_score for pair in pairs)
        if stage["kind"] == "external_reward":
            for pair in pairs:
                again = reward([pair.prompt] * 2, [pair.chosen, pair.rejected])
                assert again == [pair.chosen_score, pair.rejected_score]


def test_the_weak_judges_votes_are_counted_as_forced(small_run: tuple[Path, dict[str, Any]]) -> None:
    counts = small_run[1]["stages"][3]["yield"]
    assert counts["votes"] == counts["votes_parsed"] + counts["votes_unparsed"]
    assert counts["votes_forced"] == counts["votes_unparsed"] > 0


def test_transformers_loads_every_checkpoint_and_gives_the_runs_logits(
    small_run: tuple[Path, dict[str, Any]], stories_folder: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, summary = small_run
    seen = []
    for stage in summary["stages"]:
        checkpoint = folder / stage["checkpoint"]
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        ids = tokenizer(OPENING, return_tensors="pt")["input_ids"]
        policy, codec = load_policy(str(checkpoint))
        assert codec is not None and codec.prompt_ids(OPENING) == tuple(ids[0].tolist())
        with torch.no_grad():
            logits = model(ids).logits
            torch.testing.assert_close(policy.head(policy.features(ids)), logits)
        seen.append(logits)
        assert codec.eos_ids == (2, 1), "the generation config goes along"
    assert all(not torch.equal(a, b) for a, b in pairwise(seen)), "every stage trained"


def test_a_run_is_measured_against_the_original_model(
    small_run: tuple[Path, dict[str, Any]], stories_folder: Path
) -> None:
    measure = imported(STORIES / "measure.py")
    folder, summary = small_run
    original, codec = load_policy(str(stories_folder))
    assert codec is not None
    prompts = [
        Prompt(i, text, codec.prompt_ids(text)) for i, text in enumerate(openings("heldout.jsonl")[:3])
    ]
    models = [str(stories_folder), str(folder / summary["stages"][2]["checkpoint"])]
    first, again, after = [measure.measured("x", model, prompts, original) for model in [models[0], *models]]
    assert first == again, "equal models are measured equally"
    assert first.texts != after.texts
    for row in (first, after):
        assert len(row.texts) == len(prompts) * measure.SAMPLES_PER_PROMPT
        assert len(row.rewards) == len(prompts)
        assert 0.3 < row.nll < 3.0, "its own stories are likely to the original"
        assert 0 < row.distinct_2 <= 1


def test_distinct_2_counts_word_pairs_over_all_texts() -> None:
    distinct_2 = imported(STORIES / "measure.py").distinct_2
    assert distinct_2(["a b c", "A b d"]) == 3 / 4
    assert distinct_2(["a a a a"]) == 1 / 3


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_ROWS = [
    {"prompt": f"Tell me about the {thing}.", "response": f"The {thing} is {colour}."}
    for thing in ("ball", "boat", "kite")
    for colour in ("red", "blue", "green", "old")
]
CHAT_PLAN = """
model: qwen
dtype: bfloat16
run: run
stages:
  - {kind: sft, data: chat.jsonl, epochs: 1, batch_size: 4, learning_rate: 1.0e-3}
  - kind: self_reward
    prompts: chat.jsonl
    num_pairs: 2
    candidates: {num: 3, max_new_tokens: 8}
    judge: {unparsed: force, votes: 2, max_new_tokens: 8}
    train: {batch_size: 2, learning_rate: 1.0e-3}
"""


def chat_tokenizer() -> Any:
    """A byte-level BPE trained on a few lines, with Qwen's special tokens and the core of its template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(
        [f"user assistant {row['prompt']} {row['response']}" for row in CHAT_ROWS], trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What `model: Qwen/Qwen2.5-0.5B-Instruct` does, on a random model of the same shape and no download."""
    import transformers

    base = tmp_path_factory.mktemp("chat")
    tokenizer = chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=end,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    module.generation_config.eos_token_id = [end, tokenizer.pad_token_id]  # as Qwen2.5's says
    module.save_pretrained(base / "qwen")
    tokenizer.save_pretrained(base / "qwen")
    (base / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHAT_ROWS), encoding="utf-8")
    (base / "plan.yaml").write_text(CHAT_PLAN, encoding="utf-8")
    folder = base / "run"
    return folder, run(base / "plan.yaml", overrides=[f"run={folder}"], reporter=Reporter(quiet=True))


def test_a_chat_model_is_trained_on_responses_with_exactly_one_turn_end(
    chat_run: tuple[Path, dict[str, Any]],
) -> None:
    folder, summary = chat_run
    assert summary["status"] == "completed"
    tokenizer = chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    examples = examples_in(folder / "stages" / "01-sft" / "items" / "data.arrow")
    assert len(examples) == len(CHAT_ROWS)
    for example, row in zip(examples, CHAT_ROWS, strict=True):
        targets = example.ids[example.is_target].tolist()
        assert targets.count(end) == 1 and targets[-1] == end
        assert tokenizer.decode(targets) == row["response"] + "<|im_end|>"


def test_a_chat_models_prompts_are_rendered_with_its_template(chat_run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = chat_run
    tokenizer = chat_tokenizer()
    examples = examples_in(folder / "stages" / "01-sft" / "items" / "data.arrow")
    trained = [tokenizer.decode(example.ids[~example.is_target]) for example in examples]
    pairs = ShardStore(folder / "stages" / "02-self_reward").read_all(PreferencePair)
    sampled = [tokenizer.decode(pair.prompt_ids) for pair in pairs]
    assert len(pairs) == 2
    texts = [row["prompt"] for row in CHAT_ROWS] + [pair.prompt for pair in pairs]
    assert trained + sampled == [
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in texts
    ]


def test_a_bfloat16_models_checkpoints_are_bfloat16_and_load(chat_run: tuple[Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, summary = chat_run
    for stage in summary["stages"]:
        model = AutoModelForCausalLM.from_pretrained(folder / stage["checkpoint"])
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        tokenizer = AutoTokenizer.from_pretrained(folder / stage["checkpoint"])
        assert tokenizer.chat_template == CHAT_TEMPLATE
