"""Data as people have it: each published form is found by its columns, said, and read as it is meant."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.data.columns import answered_of, pair_of, prompt_of, prompt_text, supervised_of
from self_rewarding_lm_pytorch.data.formats import form_of, told, uses_of
from self_rewarding_lm_pytorch.data.judged import read_judged
from self_rewarding_lm_pytorch.data.made import each_made
from self_rewarding_lm_pytorch.data.readers import read_rows
from self_rewarding_lm_pytorch.errors import DataError
from self_rewarding_lm_pytorch.records import Conversation, Message

Texts = list[tuple[str, str]]


def said(turns: Conversation) -> Texts:
    return [(turn.role, turn.content) for turn in turns]


def openai(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def sharegpt(*turns: tuple[str, str]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names.get(role, role), "value": text} for role, text in turns]


ASKED = ("user", "why?")
TALK = [("system", "be kind"), ASKED, ("assistant", "so"), ("user", "and?"), ("assistant", "then")]

SUPERVISED: list[tuple[str, dict[str, Any], Texts, str]] = [
    (
        "alpaca",
        {"instruction": "sort", "input": "b a", "output": "a b", "text": "Below is"},
        [("user", "sort\nb a"), ("assistant", "a b")],
        "alpaca; prompt = instruction + input, response = output; not used: text",
    ),
    (
        "alpaca without an input",
        {"instruction": "sort", "input": "", "output": "a b"},
        [("user", "sort"), ("assistant", "a b")],
        "alpaca; prompt = instruction + input, response = output",
    ),
    (
        "alpaca with system and history, as LLaMA-Factory has it",
        {
            "instruction": "and?",
            "input": None,
            "output": "then",
            "system": "be kind",
            "history": [["why?", "so"]],
        },
        TALK,
        "alpaca; system = system, prompt = history + instruction + input, response = output",
    ),
    (
        "Dolly",
        {"instruction": "sort", "context": "b a", "response": "a b", "category": "qa"},
        [("user", "sort\nb a"), ("assistant", "a b")],
        "instruction/response; prompt = instruction + context; not used: category",
    ),
    (
        "ShareGPT",
        {"id": "x", "conversations": sharegpt(*TALK)},
        TALK,
        "ShareGPT; trained on: every answer in conversations; not used: id",
    ),
    (
        "ShareGPT with a column for the system",
        {"conversations": sharegpt(*TALK[1:]), "system": "be kind"},
        TALK,
        "ShareGPT; system = system, trained on: every answer in conversations",
    ),
    ("conversations with roles", {"conversations": openai(*TALK)}, TALK, "OpenAI messages; trained on"),
    ("OpenAI", {"messages": openai(*TALK)}, TALK, "OpenAI messages; trained on: every answer in messages"),
    (
        "OpenAI with parts and a developer",
        {
            "messages": openai(
                ("developer", "be kind"),
                ("user", [{"type": "text", "text": "wh"}, {"type": "text", "text": "y?"}]),
                *TALK[2:],
            )
        },
        TALK,
        "OpenAI messages",
    ),
    (
        "messages as datasets gives a sequence of records",
        {"messages": {"role": [role for role, _ in TALK], "content": [text for _, text in TALK]}},
        TALK,
        "OpenAI messages",
    ),
    ("prompt and completion", {"prompt": "why?", "completion": "so"}, TALK[1:3], "prompt/completion"),
    (
        "prompt and completion as messages, as TRL has it",
        {"prompt": openai(*TALK[:4]), "completion": openai(TALK[4])},
        TALK,
        "prompt/completion as messages",
    ),
    (
        "GSM8K",
        {"question": "why?", "answer": "so"},
        TALK[1:3],
        "question/answer; prompt = question, response = answer",
    ),
    ("input and output", {"input": "why?", "output": "so"}, TALK[1:3], "input/output"),
    (
        "OpenOrca",
        {"id": 1, "system_prompt": "be kind", "question": "why?", "response": "so"},
        TALK[:3],
        "question/response; system = system_prompt, prompt = question; not used: id",
    ),
    (
        "UltraChat, whose prompt is repeated in its messages",
        {"prompt": "why?", "prompt_id": "x", "messages": openai(*TALK[1:])},
        TALK[1:],
        "OpenAI messages; trained on: every answer in messages; not used: prompt, prompt_id",
    ),
]


@pytest.mark.parametrize(
    ("row", "turns", "words"), [c[1:] for c in SUPERVISED], ids=[c[0] for c in SUPERVISED]
)
def test_rows_to_train_on_are_read_as_their_authors_mean_them(row: Any, turns: Texts, words: str) -> None:
    assert said(supervised_of(row, 0)) == turns
    assert str(form_of(row, "supervised")).startswith(words)


PAIR = (TALK[1:2], "so", "no")
PAIRS: list[tuple[str, dict[str, Any], tuple[Texts, str, str], str]] = [
    ("text", {"prompt": "why?", "chosen": "so", "rejected": "no"}, PAIR, "prompt/chosen/rejected"),
    (
        "Orca DPO pairs",
        {"system": "be kind", "question": "why?", "chosen": "so", "rejected": "no"},
        (TALK[:2], "so", "no"),
        "question/chosen/rejected; system = system, prompt = question",
    ),
    (
        "alpaca's",
        {"instruction": "sort", "input": "b a", "chosen": "a b", "rejected": "b a"},
        ([("user", "sort\nb a")], "a b", "b a"),
        "instruction/chosen/rejected; prompt = instruction + input",
    ),
    (
        "UltraFeedback on the hub",
        {
            "prompt": "why?",
            "messages": openai(*TALK[1:3]),
            "chosen": openai(ASKED, ("assistant", "so")),
            "rejected": openai(ASKED, ("assistant", "no")),
            "score_chosen": 8.0,
        },
        PAIR,
        "chosen/rejected as messages; prompt = what chosen and rejected begin with; not used: prompt",
    ),
    (
        "TRL's, with messages for all three",
        {"prompt": openai(*TALK[:4]), "chosen": openai(TALK[4]), "rejected": openai(("assistant", "no"))},
        (TALK[:4], "then", "no"),
        "prompt/chosen/rejected as messages",
    ),
    (
        "with an implicit prompt of several turns",
        {"chosen": openai(*TALK), "rejected": openai(*TALK[:4], ("assistant", "no"))},
        (TALK[:4], "then", "no"),
        "chosen/rejected as messages; prompt = what chosen and rejected begin with",
    ),
    (
        "ShareGPT's, as LLaMA-Factory has it",
        {
            "conversations": sharegpt(*TALK[:4]),
            "chosen": {"from": "gpt", "value": "then"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        (TALK[:4], "then", "no"),
        "conversations/chosen/rejected as messages; prompt = conversations",
    ),
]


@pytest.mark.parametrize(("row", "pair", "words"), [c[1:] for c in PAIRS], ids=[c[0] for c in PAIRS])
def test_pairs_are_read_in_every_published_form(row: Any, pair: tuple[Texts, str, str], words: str) -> None:
    asked, chosen, rejected = pair_of(row, 0)
    assert (said(asked), chosen, rejected) == pair
    assert str(form_of(row, "pairs")).startswith(words)
    prompt = prompt_of(row, 0)
    assert prompt == (asked[0].content if len(asked) == 1 else asked), "the same is asked, read as a prompt"


@pytest.mark.parametrize(
    ("row", "asked", "words"),
    [
        ("why?", "why?", "text, a prompt each"),
        ({"prompt": "why?"}, "why?", "prompts"),
        ({"instruction": "sort", "input": "b a"}, "sort\nb a", "alpaca; prompt = instruction + input"),
        ({"messages": openai(ASKED)}, "why?", "OpenAI messages; prompt = messages"),
        ({"prompt": openai(ASKED)}, "why?", "prompts as messages"),
        ({"messages": openai(*TALK)}, TALK[:4], "OpenAI messages; prompt = messages without the last answer"),
        ({"prompt": "why?", "system": "be kind"}, TALK[:2], "prompts; system = system"),
        ({"prompt": "first", "messages": openai(*TALK)}, "first", "prompts; not used: messages"),
    ],
)
def test_prompts_end_with_what_is_to_be_answered(row: Any, asked: Any, words: str) -> None:
    found = prompt_of(row, 0)
    assert (found if isinstance(found, str) else said(found)) == asked
    assert str(form_of(row, "prompts")).startswith(words)


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
        min_size=2,
        max_size=7,
    ),
    st.booleans(),
)
def test_a_conversation_is_the_same_in_every_form_it_is_written_in(
    texts: list[str], has_system: bool
) -> None:
    texts = texts[: len(texts) // 2 * 2]
    turns = [(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]
    told_first = [("system", "be kind")] if has_system else []
    whole = tuple(Message(role, text) for role, text in told_first + turns)  # type: ignore[arg-type]
    *before, (_, asked), (_, answer) = turns
    history = [[before[i][1], before[i + 1][1]] for i in range(0, len(before), 2)]
    alpaca = {"instruction": asked, "output": answer, "history": history}
    rows = [
        {"messages": openai(*told_first, *turns)},
        {"conversations": sharegpt(*told_first, *turns)},
        {"prompt": openai(*told_first, *turns[:-1]), "completion": answer},
        {**alpaca, "system": "be kind" if has_system else None},
    ]
    assert [supervised_of(row, 0) for row in rows] == [whole] * 4
    pair = {
        "chosen": rows[0]["messages"],
        "rejected": [*rows[0]["messages"][:-1], *openai(("assistant", "no"))],
    }
    assert pair_of(pair, 0) == (whole[:-1], answer, "no")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"prompt": "a", "question": "b", "response": "c"},
            "'prompt' and 'question', and each may be the prompt",
        ),
        ({"prompt": "a", "output": "b", "answer": "c"}, "each may be the response.*response: output"),
        ({"messages": openai(*TALK), "conversations": openai(*TALK)}, "each may be the messages"),
        (
            {"messages": openai(*TALK), "prompt": "a", "response": "b"},
            "say which to train on: .*messages: messages.* or .*prompt: prompt, response: response",
        ),
        ({"messages": openai(*TALK[1:4])}, "ends with the user's message 'and\\?', which nothing answers"),
        ({"messages": openai(ASKED, ASKED)}, "message 1 is the user's, where the assistant's is due"),
        ({"messages": openai(("assistant", "hi"))}, "message 0 is the assistant's, where the user's is due"),
        ({"messages": openai(("system", "hi"))}, "holds no user's message"),
        ({"messages": openai(ASKED, ("system", "hi"))}, "message 1 is the system's"),
        ({"messages": openai(ASKED, ("tool", "42"))}, "message 1 is a tool's or calls one"),
        (
            {"messages": [*openai(ASKED), {"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "calls one",
        ),
        ({"conversations": sharegpt(ASKED, ("function_call", "f"))}, "is a tool's or calls one"),
        ({"messages": openai(ASKED, ("bot", "hi"))}, "is by 'bot'; known speakers: system, developer, user"),
        ({"messages": openai(ASKED, ("assistant", ""))}, "empty response, which would train on nothing"),
        ({"messages": openai(ASKED, ("assistant", None))}, "says None; it must be text"),
        (
            {"messages": openai(("user", [{"type": "image_url", "image_url": {}}]), TALK[2])},
            "a part of type 'image_url'; only text is read",
        ),
        ({"messages": ["why?", "so"]}, "message 0 is 'why\\?'; a message is"),
        ({"messages": []}, "where a conversation is wanted"),
        ({"messages": "why?"}, "holds 'why\\?' where a conversation is wanted"),
        ({"messages": openai(ASKED, ("assistant", "a\0"))}, "message 1 holds a NUL character"),
        ({"instruction": "a", "input": 5, "output": "b"}, "input is 5; it must be text, or null"),
        ({"instruction": "a", "history": [["b"]], "output": "c"}, "history is .*; it must be a list of"),
        ({"prompt": "a", "system": 5, "response": "b"}, "system is 5; it must be text, or null"),
        ({"messages": openai(*TALK), "system": "be rude"}, "a system's message of its own, which differ"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_its_number(row: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"item 4.*{words}"):
        supervised_of(row, 4)


def weighted(*weights: Any, talk: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The talk without its system's message, each message with its weight."""
    turns = openai(*TALK[1:]) if talk is None else talk
    return [{**turn, "weight": weight} for turn, weight in zip(turns, weights, strict=True)]


def trained(row: Any) -> list[bool]:
    return [turn.is_trained_on for turn in supervised_of(row, 0)]


@pytest.mark.parametrize(
    ("weights", "targets"),
    [
        ((None, None, None, None), ["so", "then"]),
        ((None, 0, None, 1), ["then"]),
        ((0, 1, 0, 0), ["so"]),
        ((0.0, 0.0, None, 1.0), ["then"]),
    ],
)
def test_an_answer_of_weight_0_is_not_trained_on_in_whatever_form(
    weights: tuple[Any, ...], targets: list[str], tmp_path: Path
) -> None:
    messages = weighted(*weights)
    columns = {name: [turn[name] for turn in messages] for name in ("role", "content", "weight")}
    table, kept = tmp_path / "a.parquet", pa.Table.from_pylist([{"messages": messages}])
    pq.write_table(kept, table)
    cell = tmp_path / "a.csv"
    with cell.open("w", newline="") as file:
        own = [{name: turn[name] for name in ("weight", "role", "content")} for turn in messages]
        csv.writer(file).writerows([["messages"], [json.dumps(own)]])
    rows = [
        {"messages": messages},
        {"conversations": weighted(*weights, talk=list(sharegpt(*TALK[1:])))},
        {"messages": columns},
        {"prompt": messages[:3], "completion": messages[3:]},
        *read_rows(table),
        *read_rows(cell),
    ]
    for row in rows:
        turns = supervised_of(row, 0)
        assert said(turns) == TALK[1:], "it is context all the same"
        assert [turn.content for turn in turns if turn.is_trained_on] == targets


def test_a_weight_changes_nothing_where_nothing_is_trained_on_by_it() -> None:
    plain, weighed = openai(*TALK[1:]), weighted(None, 0, 0, 0)
    assert prompt_of({"messages": weighed}, 0) == prompt_of({"messages": plain}, 0)
    pair = {"chosen": weighed, "rejected": [*plain[:3], *openai(("assistant", "no"))]}
    assert pair_of(pair, 0) == pair_of({**pair, "chosen": plain}, 0)
    assert len({prompt_of({"messages": weighed}, 0), prompt_of({"messages": plain}, 0)}) == 1
    assert answered_of({"messages": weighed}, 0) == supervised_of({"messages": plain}, 0)


def test_that_answers_of_weight_0_are_left_out_is_told_with_the_form() -> None:
    assert str(form_of({"messages": weighted(None, 0, None, None)}, "supervised")) == (
        "OpenAI messages; trained on: every answer in messages but those of weight 0"
    )
    refused = uses_of({"messages": weighted(None, 0, None, 0)})["supervised"]
    assert "each of its answers has weight 0, so there is nothing to train on" in str(refused)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((None, 0.5, None, None), "message 1 has the weight 0.5; .*graded weights are not supported: "),
        ((None, None, None, 2), "message 3 has the weight 2; "),
        ((None, -1, None, None), "message 1 has the weight -1; "),
        ((None, False, None, None), "message 1 has the weight False; "),
        ((None, "0", None, None), "message 1 has the weight '0'; "),
        ((None, [0], None, None), r"message 1 has the weight \[0\]; "),
        ((None, float("nan"), None, None), "message 1 has the weight nan; "),
        ((1, None, None, None), "message 0 is the user's and has the weight 1, but only the assistant's"),
        ((None, None, False, None), "message 2 is the user's and has the weight False"),
        ((None, 0, None, 0), "each of its answers has weight 0, so there is nothing to train on"),
    ],
)
def test_weights_that_cannot_be_heeded_are_refused_by_row_and_message(weights: Any, words: str) -> None:
    for row in (
        {"messages": weighted(*weights)},
        {"conversations": weighted(*weights, talk=list(sharegpt(*TALK[1:])))},
    ):
        with pytest.raises(DataError, match=f"item 4.*{words}"):
            supervised_of(row, 4)


def test_the_first_answer_alone_keeps_its_weight() -> None:
    (row,) = read_rows({"rows": [{"messages": weighted(None, 1, None, 0)}], "turns": "first"})
    assert row == {"prompt": "why?", "response": "so"}
    (row,) = read_rows({"rows": [{"messages": weighted(None, 0, None, 1)}], "turns": "first"})
    assert prompt_of(row, 0) == "why?"
    assert said(answered_of(row, 0)) == TALK[1:3]
    with pytest.raises(DataError, match="item 4: each of its answers has weight 0"):
        supervised_of(row, 4)
    with pytest.raises(DataError, match=r"item 0, message 1 has the weight 0\.3"):
        read_rows({"rows": [{"messages": weighted(None, 0.3, None, 1)}], "turns": "first"})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"chosen": openai(*TALK), "rejected": openai(*TALK[:2], ("assistant", "no"), *TALK[3:])},
            "chosen and rejected part at message 2 of 5 and 5",
        ),
        ({"chosen": openai(*TALK), "rejected": openai(*TALK[:4])}, "part at message 4 of 5 and 4"),
        ({"chosen": openai(*TALK[:4]), "rejected": openai(*TALK[:4])}, "chosen ends with the user's message"),
        ({"chosen": openai(TALK[2]), "rejected": openai(TALK[2])}, "none of them prompt or instruction"),
        ({"prompt": openai(*TALK), "chosen": "a", "rejected": "b"}, "its prompt must end with the user's"),
        ({"prompt": "a", "chosen": openai(TALK[2]), "rejected": "b"}, "none of the last two empty"),
        (
            {"prompt": "a" * 999, "chosen": "b" * 999, "rejected": None},
            "got prompt: 'a+, .*, rejected: None: write",
        ),
        ({"chosen": "Human: why? a", "rejected": "Human: why? b"}, "with 'Human: why\\?'.*Split it off"),
        ({"chosen": "a cat", "rejected": "a dog"}, "none of them prompt or instruction"),
    ],
)
def test_pairs_that_do_not_answer_the_same_are_refused_by_their_number(row: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"(pair|item) 4.*{words}"):
        pair_of(row, 4)


def test_where_only_text_will_do_the_system_stands_before_the_question() -> None:
    assert prompt_text({"prompt": "why?", "system": "be kind"}, 0) == "be kind\n\nwhy?"
    with pytest.raises(DataError, match=r"prompt 3 is a conversation of 4 messages.*turns: first"):
        prompt_text({"messages": openai(*TALK)}, 3)


def test_a_mapping_wins_over_what_would_be_found() -> None:
    row = {"prompt": "template of all", "instruction": "sort", "input": "b a", "output": "a b", "answer": "x"}
    with pytest.raises(DataError, match="each may be the prompt"):
        supervised_of(row, 0)
    source = {"rows": [row], "prompt": "instruction", "input": "input", "response": "output"}
    assert said(supervised_of(read_rows(source)[0], 0)) == [("user", "sort\nb a"), ("assistant", "a b")]
    alone = {"rows": [row], "prompt": "instruction", "response": "output", "system": "answer"}
    assert said(supervised_of(read_rows(alone)[0], 0))[:2] == [("system", "x"), ("user", "sort")]
    both = {"messages": openai(*TALK), "prompt": "a", "response": "b", "other": openai(*TALK[1:3])}
    (found,) = read_rows({"rows": [both], "messages": "other"})
    assert said(supervised_of(found, 0)) == TALK[1:3]
    (found,) = read_rows({"rows": [both], "prompt": "prompt", "response": "response"})
    assert said(supervised_of(found, 0)) == [("user", "a"), ("assistant", "b")]
    pair = {"question": "why?", "good": "so", "bad": "no", "chosen": "other", "rejected": "another"}
    (found,) = read_rows({"rows": [pair], "chosen": "good", "rejected": "bad"})
    assert pair_of(found, 0)[1:] == ("so", "no")
    (found,) = read_rows(
        {"rows": [{"prompt": "why?", "chosen": "so", "rejected": "no"}], "response": "chosen"}
    )
    assert said(supervised_of(found, 0)) == TALK[1:3], "chosen answers can be trained on, by name"


def test_a_source_keeps_the_form_of_its_first_row_and_files_may_differ(tmp_path: Path) -> None:
    alpaca = {"instruction": "sort", "output": "a"}
    rows = [alpaca, {**alpaca, "input": "b a"}, {"messages": openai(*TALK)}]
    with pytest.raises(
        DataError, match="item 2 has a column 'messages', but the rows before it have instruction, out"
    ):
        list(each_made(rows, supervised_of))
    assert len(list(each_made(rows[:2], supervised_of))) == 2, "an input may be missing where it is empty"
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, part in zip(paths, (rows[:2], rows[2:]), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
    assert [len(turns) for turns in each_made(paths, supervised_of)] == [2, 2, 5]
    assert told(paths, "supervised") == [
        f"{paths[0]}: alpaca; prompt = instruction, response = output; 2 rows",
        f"{paths[1]}: OpenAI messages; trained on: every answer in messages; 1 row",
    ]


def test_of_a_part_of_a_file_its_form_and_the_rows_of_that_part_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "reply": "b"}\n' * 10)
    source = {"file": str(path), "response": "reply", "split": "train[:50%]", "limit": 3}
    assert told(source, "supervised") == [
        f"{path}, split train[:50%]: question/response; prompt = question; 3 rows"
    ]
    assert told({"open_assistant": "trees.jsonl"}, "prompts") == [
        "trees.jsonl: Open Assistant; the reply ranked best to each first question"
    ]
    assert told(iter(["a"]), "prompts") == [], "what can be read once is left alone"
    assert told(["why?", "how?"], "prompts") == ["items in memory: text, a prompt each; 2 rows"]


def test_for_each_use_that_is_refused_the_reason_is_told() -> None:
    uses = uses_of({"prompt": "why?", "response": "so"})
    assert str(uses["prompts"]) == "prompts; not used: response"
    assert str(uses["supervised"]) == "prompt/response"
    assert "none of them chosen" in str(uses["pairs"])
    tree = uses_of({"message_id": "a", "text": "why?", "role": "prompter"})
    assert all("open_assistant: FILE" in str(reason) for reason in tree.values())


def test_judges_are_measured_on_pairs_of_messages_too() -> None:
    row = {"chosen": openai(ASKED, TALK[2]), "rejected": openai(ASKED, ("assistant", "no"))}
    (judged,) = read_judged([row]).prompts
    assert (judged.prompt, judged.responses, judged.worths) == ("why?", ("so", "no"), (1.0, 0.0))
