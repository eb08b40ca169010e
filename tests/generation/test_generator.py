"""The generator: the same samples in any batch, budgets kept, rows that end leave."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from self_rewarding_lm_pytorch.errors import GenerationError
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.requests import Completion, Request
from self_rewarding_lm_pytorch.generation.sampling import Sampling, sample
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.plain import PlainPolicy
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.seeds import address, uniforms
from tests.helpers import Successor, Table, hugging_face, recurrent, whole_logits, x_transformer

EOS = 2
SAMPLING = Sampling(temperature=1.5)
POLICIES: dict[str, Callable[[], Policy]] = {
    "plain": recurrent,
    "x-transformers": lambda: x_transformer(rotary_pos_emb=True),
    "hugging face": lambda: hugging_face("llama"),
}


def keys(*place: int | str, count: int = 3) -> tuple[int, ...]:
    return tuple(address(*place, i) for i in range(count))


def requests(new_tokens: int = 12) -> list[Request]:
    prompts = [(3, 7, 1, 4, 4), (5,), (9, 9, 8, 1, 6, 6, 3), (11, 12), (5,)]
    return [Request(ids, keys("request", i, count=1 + i % 3), new_tokens) for i, ids in enumerate(prompts)]


def by_hand(policy: Policy, request: Request, sampling: Sampling = SAMPLING) -> list[Completion]:
    """One sample at a time, the whole row read again for every token."""
    done = []
    for key in request.keys:
        ids: list[int] = []
        while len(ids) < request.max_new_tokens and ids[-1:] != [EOS]:
            with torch.no_grad():
                logits = whole_logits(policy, torch.tensor([[*request.ids, *ids]]))[:, -1]
            ids.append(int(sample(logits, sampling, uniforms(torch.tensor([key]), len(ids)))))
        done.append(Completion(tuple(ids), "eos" if ids[-1] == EOS else "length"))
    return done


@pytest.mark.parametrize("name", POLICIES)
def test_samples_are_those_drawn_one_at_a_time(name: str) -> None:
    policy = POLICIES[name]()
    found = PolicyGenerator(policy, [EOS]).generate(requests(), SAMPLING)
    assert found == [by_hand(policy, request) for request in requests()]
    assert {c.finish_reason for row in found for c in row} == {"eos", "length"}, "the test covers both ends"


@pytest.mark.parametrize("name", POLICIES)
def test_neither_order_nor_batch_nor_budget_nor_cache_changes_a_token(name: str) -> None:
    policy, asked = POLICIES[name](), requests()
    expected = PolicyGenerator(policy, [EOS]).generate(asked, SAMPLING)
    assert PolicyGenerator(policy, [EOS]).generate(asked[::-1], SAMPLING) == expected[::-1]
    assert [PolicyGenerator(policy, [EOS]).generate([r], SAMPLING)[0] for r in asked] == expected
    assert PolicyGenerator(policy, [EOS], token_budget=60).generate(asked, SAMPLING) == expected
    assert PolicyGenerator(policy, [EOS], use_cache=False).generate(asked, SAMPLING) == expected


def test_a_request_without_keys_gives_no_completion() -> None:
    asked = [requests()[0], Request((5, 6), (), 3), requests()[1]]
    found = PolicyGenerator(recurrent(), [EOS]).generate(asked, SAMPLING)
    assert [len(row) for row in found] == [1, 0, 2]
    assert PolicyGenerator(recurrent(), [EOS]).generate([], SAMPLING) == []


def test_equal_prompts_with_other_keys_are_other_samples_and_equal_keys_equal_ones() -> None:
    asked = [Request((5, 6), keys("a"), 20), Request((5, 6), keys("b"), 20), Request((5, 6), keys("a"), 20)]
    first, second, third = PolicyGenerator(recurrent(), []).generate(asked, SAMPLING)
    assert first == third
    assert len({c.ids for c in first + second}) == 6


def test_temperature_0_is_greedy_for_every_key() -> None:
    policy = recurrent()
    found = PolicyGenerator(policy, []).generate([Request((5, 6), keys("a"), 8)], Sampling(0.0))[0]
    row = [5, 6]
    for _ in range(8):
        row.append(int(policy.logits(torch.tensor([row]))[0, -1].argmax()))
    assert [list(c.ids) for c in found] == [row[2:]] * 3


def test_the_end_is_included_and_the_reason_is_right() -> None:
    """The model counts up: after 27 come 28, 29, 30, 31, then 0 again; 30 and 3 end a sample."""
    generator = PolicyGenerator(policy_for(Successor()), [30, 3])
    asked = [Request((9, 27), keys(1, count=1), 10), Request((0,), keys(2, count=2), 10)]
    asked += [Request((5,), keys(3, count=1), 4), Request((28,), keys(4, count=1), 2)]
    found = generator.generate(asked, Sampling())
    assert found[0] == [Completion((28, 29, 30), "eos")]
    assert found[1] == [Completion((1, 2, 3), "eos")] * 2
    assert found[2] == [Completion((6, 7, 8, 9), "length")]
    assert found[3] == [Completion((29, 30), "eos")], "an end at the last allowed token is an end"


def test_an_end_in_the_prompt_does_not_end_the_response() -> None:
    found = PolicyGenerator(policy_for(Successor()), [7]).generate([Request((7, 7), keys(1), 2)], Sampling())
    assert found[0][0] == Completion((8, 9), "length")


def test_without_an_end_every_sample_has_its_full_budget() -> None:
    asked = [Request((5,), keys(i, count=1), 1 + i) for i in range(6)]
    found = PolicyGenerator(recurrent(), []).generate(asked, SAMPLING)
    assert [(len(row[0].ids), row[0].finish_reason) for row in found] == [(1 + i, "length") for i in range(6)]


class Counting(PlainPolicy):
    """Counts the rows and positions it is asked to read at once."""

    def __init__(self, module: nn.Module, **limits: Any) -> None:
        super().__init__(module, **limits)
        self.shapes: list[tuple[int, int]] = []

    def features(self, ids: Tensor) -> Tensor:
        self.shapes.append((ids.shape[0], ids.shape[1]))
        return super().features(ids)


def counted(asked: Sequence[Request], budget: int = 65_536, eos: Sequence[int] = ()) -> Counting:
    policy = Counting(Successor())
    PolicyGenerator(policy, eos, token_budget=budget).generate(asked, Sampling())
    return policy


def test_rows_that_ended_leave_the_batch() -> None:
    """Row i counts from 10 + i up to 30: the samples end one after the other."""
    asked = [Request((10 + i,), keys(i, count=1), 25) for i in range(16)]
    rows = [rows for rows, _ in counted(asked, eos=[30]).shapes]
    assert rows[0] == 16
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] <= 2
    longest = 20  # the row from 10 needs 20 tokens
    assert len(rows) == longest, "nothing is read after the last sample ended"


def test_the_token_budget_bounds_rows_times_positions() -> None:
    asked = [Request(tuple(range(i, i + 3 + i % 4)), keys(i, count=2), 10) for i in range(20)]
    shapes = counted(asked, budget=100).shapes
    assert max(rows * positions for rows, positions in shapes) <= 100
    assert max(rows for rows, _ in shapes) > 2, "several requests still share a batch"


def test_the_token_budget_also_bounds_a_request_with_many_samples() -> None:
    shapes = counted([Request((1, 2, 3, 4), keys(1, count=40), 6)], budget=100).shapes
    assert max(rows * positions for rows, positions in shapes) <= 100


def test_a_prompt_is_read_once_for_all_its_samples() -> None:
    shapes = counted([Request((1, 2, 3), keys(1, count=8), 2)]).shapes
    assert shapes[0] == (1, 3)


def test_samples_that_write_the_same_are_one_row_until_they_part() -> None:
    """A table of two certain tokens, then an even choice: eight samples are one row, then two."""
    certain, free = 60.0, 0.0
    table = torch.full((4, 4), -60.0)
    table[0, 1] = table[1, 2] = certain
    table[2, 2:] = free
    table[3, 3] = certain
    policy = Counting(Table(table))
    found = PolicyGenerator(policy, []).generate([Request((0,), keys(1, count=8), 6)], Sampling(1.0, None))
    assert [rows for rows, _ in policy.shapes][:3] == [1, 1, 1]
    assert len({completion.ids for completion in found[0]}) > 1
    asked = [Request((0,), (key,), 6) for key in keys(1, count=8)]
    alone = [PolicyGenerator(policy, []).generate([one], Sampling(1.0, None))[0][0] for one in asked]
    assert found[0] == alone


def test_requests_with_the_same_prompt_are_read_once() -> None:
    asked = [Request((1, 2, 3), keys(i, count=2), 4) for i in range(5)]
    assert counted(asked).shapes[0] == (1, 3)


@pytest.mark.parametrize("budget", [130, 400, 10_000])
@pytest.mark.parametrize("name", POLICIES)
def test_samples_that_part_late_join_late_or_share_a_prefix_are_those_drawn_one_at_a_time(
    name: str, budget: int
) -> None:
    policy = POLICIES[name]()
    prefix = tuple(3 + i % 20 for i in range(25))
    asked = [Request((*prefix, 5 + i % 3, i % 7), keys(i, count=4), 9 + i % 4) for i in range(9)]
    sampling = Sampling(temperature=0.3)  # most samples of a prompt begin alike
    found = PolicyGenerator(policy, [EOS], token_budget=budget).generate(asked, sampling)
    assert len({completion.ids[0] for completion in found[0]}) < 4
    for request, own in zip(asked, found, strict=True):
        assert own == by_hand(policy, request, sampling)


def test_waiting_requests_take_the_places_of_those_that_ended() -> None:
    """One sample of twenty tokens and many of two: the short ones come and go beside the long one."""
    asked = [
        Request((9,), keys(0, count=1), 20),
        *(Request((28 - i,), keys(i, count=1), 2) for i in range(18)),
    ]
    policy = counted(asked, budget=84)
    assert max(rows * positions for rows, positions in policy.shapes) <= 84
    batch_by_batch = 20 + 2 * math.ceil(18 / (84 // 21))
    assert len(policy.shapes) < batch_by_batch


def test_a_request_may_say_when_its_samples_stop() -> None:
    asked = [Request((5,), keys(1, count=2), 9, stop=lambda ids: ids[-1] == 8), Request((5,), keys(2), 4)]
    stopped, free = PolicyGenerator(policy_for(Successor()), [30]).generate(asked, Sampling())
    assert stopped == [Completion((6, 7, 8), "stop")] * 2
    assert {completion.finish_reason for completion in free} == {"length"}


def test_an_end_of_sequence_is_an_end_even_where_the_sample_would_stop() -> None:
    asked = [Request((5,), keys(1), 9, stop=lambda ids: ids[-1] == 8)]
    assert (
        PolicyGenerator(policy_for(Successor()), [8]).generate(asked, Sampling())[0][0].finish_reason == "eos"
    )


def test_progress_adds_up_to_samples_and_tokens() -> None:
    finished, tokens = [], []

    def listen(done: int, sampled: int) -> None:
        finished.append(done)
        tokens.append(sampled)

    found = PolicyGenerator(recurrent(), [EOS]).generate(requests(), SAMPLING, on_progress=listen)
    assert sum(finished) == sum(len(row) for row in found)
    assert sum(tokens) == sum(len(c.ids) for row in found for c in row)


def test_long_and_short_requests_never_share_a_batch_that_outgrows_the_context() -> None:
    """Context 64: 60 + 4 and 4 + 60 fit apart, but a batch of both would need 120 positions."""
    policy = x_transformer(dtype=torch.float32)
    asked = [Request(tuple([5] * 60), keys(1), 4), Request((5, 6, 7, 8), keys(2), 60)]
    found = PolicyGenerator(policy, []).generate(asked, SAMPLING)
    assert [len(row[0].ids) for row in found] == [4, 60]


def test_an_empty_prompt_is_refused_by_its_number() -> None:
    with pytest.raises(GenerationError, match="request 1 has an empty prompt"):
        PolicyGenerator(recurrent(), []).generate([requests()[0], Request((), keys(1), 3)], SAMPLING)


def test_a_request_over_the_context_is_refused_with_the_numbers() -> None:
    with pytest.raises(GenerationError, match=r"request 0 wants 60 prompt tokens and 5 new.*context is 64"):
        PolicyGenerator(x_transformer(), []).generate([Request((1,) * 60, keys(1), 5)], SAMPLING)


def test_a_sample_over_the_token_budget_is_refused_with_the_numbers() -> None:
    with pytest.raises(GenerationError, match=r"takes 14 cached positions.*budget of 13"):
        PolicyGenerator(recurrent(), [], token_budget=13).generate([Request((1,) * 4, keys(1), 10)], SAMPLING)


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_of_no_tokens_is_refused_and_not_overrun(budget: int) -> None:
    with pytest.raises(GenerationError, match=str(budget)):
        PolicyGenerator(recurrent(), []).generate([Request((1, 2), keys(1), budget)], SAMPLING)


def broken(value: float) -> Policy:
    """Everything is well unless token 20 has been read, which is never sampled."""
    table = torch.zeros(32, 32)
    table[:, 20] = -math.inf
    table[20] = value
    return policy_for(Table(table))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_unusable_logits_name_the_callers_request(value: float, temperature: float) -> None:
    """Request 0 has the shortest prompt, so it does not stand first in the batch."""
    asked = [Request((20,), keys(0), 4), Request((1, 2, 3), keys(1), 4), Request((1, 2), keys(2), 4)]
    with pytest.raises(GenerationError, match=r"request 0\b"):
        PolicyGenerator(broken(value), []).generate(asked, Sampling(temperature))


def test_unusable_logits_of_a_later_batch_name_the_callers_request() -> None:
    asked = [Request((1, 2, 3), keys(0), 4), Request((1, 20), keys(1), 4)]
    with pytest.raises(GenerationError, match=r"request 1\b"):
        PolicyGenerator(broken(math.nan), [], token_budget=21).generate(asked, Sampling())


def test_the_model_keeps_its_mode_and_is_read_without_dropout() -> None:
    policy = recurrent(dropout=0.5)
    policy.module.train()
    generator = PolicyGenerator(policy, [EOS])
    assert generator.generate(requests(), SAMPLING) == generator.generate(requests(), SAMPLING)
    assert policy.module.training


def test_float32_samples_agree_between_batch_shapes_almost_always() -> None:
    """At least 99.9 % of 4,000 tokens; floating point differs with the shape, the uniforms do not."""
    policy = x_transformer(dtype=torch.float32, rotary_pos_emb=True)
    asked = [Request((5 + i % 20, 6), keys(i, count=4), 20) for i in range(50)]
    together = PolicyGenerator(policy, []).generate(asked, SAMPLING)
    apart = PolicyGenerator(policy, [], token_budget=100).generate(asked, SAMPLING)
    pairs = [
        (a, b)
        for one, other in zip(together, apart, strict=True)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x.ids, y.ids, strict=True)
    ]
    assert len(pairs) == 4_000
    assert sum(a != b for a, b in pairs) <= 4


def test_the_real_model_continues_a_story_as_it_was_published(
    stories_model: Any, stories_tokenizer: Any
) -> None:
    """The greedy text is the one in the model's README, which llama2.c's own program wrote."""
    ids = tuple(stories_tokenizer("Once upon a time")["input_ids"])
    generator = PolicyGenerator(policy_for(stories_model), [2, 1])
    asked = [
        Request(ids, (1,), 40),
        Request(tuple(stories_tokenizer("One day, a cat")["input_ids"]), (2,), 9),
    ]
    found = generator.generate(asked, Sampling(0.0))[0][0]
    text = stories_tokenizer.decode(found.ids)
    assert "there was a little girl named Lily. She loved to play outside in the park." in text
