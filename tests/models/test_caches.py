"""The fast path equals the slow path: a cache's logits are those of a full forward of each row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from self_rewarding_lm_pytorch.models.agreement import cache_agrees
from self_rewarding_lm_pytorch.models.caches import Cache, RecomputingCache, by_cohort, chunks
from self_rewarding_lm_pytorch.models.cohorts import Slots
from self_rewarding_lm_pytorch.models.huggingface_caches import HuggingFaceOwnCache, HuggingFaceSharedCache
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.x_transformers_caches import (
    XTransformersOwnCache,
    XTransformersSharedCache,
)
from tests.helpers import (
    HF_FAMILIES,
    X_FAMILIES,
    hugging_face,
    other_hugging_face,
    recurrent,
    whole_logits,
    x_transformer,
)

PREFIX = (11, 4, 7, 7, 2)
PROMPTS = [(3, 7, 1, 4, 4, 6, 9), (5, 2, 8), (9,), (12, 13, 14, 15, 16)]

FAMILIES: dict[str, Callable[..., Policy]] = {
    **{f"x-transformers {k}": partial(x_transformer, **X_FAMILIES[k]) for k in X_FAMILIES},
    **{f"hugging face {k}": partial(hugging_face, k) for k in HF_FAMILIES},
    "plain": recurrent,
}
TYPES = [torch.float32, torch.float64]
TOLERANCE = 1e-3
"""Logits span about 20. Even a float64 model has float32 parts (softmax, norms, rotary tables)."""


class Rows:
    """A cache beside the ids that its rows stand for."""

    def __init__(self, policy: Policy, kind: type[Cache], prefix: tuple[int, ...]) -> None:
        self.policy = policy
        self.cache = kind(policy, prefix)
        self.ids: list[tuple[int, ...]] = []

    def add(self, prompts: list[tuple[int, ...]], copies: list[int], room: int) -> None:
        """As many rows of each prompt as there may be."""
        self._compare(self.cache.add(prompts, copies, room), prompts)
        before = len(self.ids)
        if self.cache.can_branch:
            self.ids += prompts
            own = [before + i for i, times in enumerate(copies) for _ in range(times)]
            self.keep(*range(before), *own)
        else:
            self.ids += [prompt for prompt, times in zip(prompts, copies, strict=True) for _ in range(times)]
        assert self.cache.num_rows == len(self.ids) == before + sum(copies)

    def extend(self, step: int) -> None:
        tokens = [(5 * row + 3 * step) % 31 for row in range(len(self.ids))]
        self.ids = [(*ids, token) for ids, token in zip(self.ids, tokens, strict=True)]
        self._compare(self.cache.extend(torch.tensor(tokens)), self.ids)

    def keep(self, *rows: int, copies: list[int] | None = None) -> None:
        """copies: how many each row may still become; one unless said otherwise."""
        weights = copies if copies is not None else [1] * len(rows)
        self.cache.keep(torch.tensor(rows, dtype=torch.int64), torch.tensor(weights, dtype=torch.int64))
        self.ids = [self.ids[row] for row in rows]

    def _compare(self, logits: Tensor, rows: list[tuple[int, ...]]) -> None:
        full = torch.stack([whole_logits(self.policy, torch.tensor([row]))[0, -1] for row in rows])
        assert torch.allclose(logits, full, atol=TOLERANCE)


def live_through(policy: Policy, kind: type[Cache], prefix: tuple[int, ...] = ()) -> None:
    """Rows come in two cohorts, go one by one past the point of compaction, and grow past windows of 4."""
    prompts = [(*prefix, *prompt) for prompt in PROMPTS]
    with policy.evaluating():
        rows = Rows(policy, kind, prefix)
        rows.add(prompts[:3], [3, 1, 2], 12)
        for step in range(3):
            rows.extend(step)
        rows.keep(0, 2, 3, 4, 5)  # one of six: the copy waits
        rows.extend(3)
        rows.add(prompts[3:], [2], 7)
        rows.extend(4)
        rows.keep(0, 3, 4, 5, 6)  # the second prompt has no row any more
        rows.extend(5)
        rows.keep(2, 4)
        for step in range(6, 10):
            rows.extend(step)
        rows.keep(1)
        rows.extend(10)
        rows.keep()
        rows.add(prompts[1:2], [1], 2)
        rows.extend(11)


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_cached_logits_are_those_of_a_full_forward(
    name: str, dtype: torch.dtype, prefix: tuple[int, ...]
) -> None:
    policy = FAMILIES[name](dtype=dtype)
    live_through(policy, policy.cache_kind, prefix)


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("name", ["hugging face llama", "hugging face gemma2", "plain"])
def test_rows_that_branch_late_go_on_as_rows_of_their_own(name: str, prefix: tuple[int, ...]) -> None:
    policy = FAMILIES[name]()
    with policy.evaluating():
        rows = Rows(policy, policy.cache_kind, prefix)
        rows.cache.add([(*prefix, *prompt) for prompt in PROMPTS[:3]], [3, 3, 2], 14)
        rows.ids = [(*prefix, *prompt) for prompt in PROMPTS[:3]]
        rows.extend(0)
        rows.keep(0, 0, 1, 2, copies=[1, 2, 3, 2])  # into free slots
        rows.extend(1)
        rows.keep(0, 1, 1, 2, 2, 3, copies=[1, 1, 1, 1, 2, 2])
        rows.extend(2)
        rows.add([(*prefix, *PROMPTS[3])], [2], 6)
        rows.extend(3)
        rows.keep(1, 3, 4, 4, 5, 5, 7, copies=[1] * 7)  # some end as others branch
        rows.extend(4)
        rows.keep(3, 4)
        for step in range(5, 9):
            rows.extend(step)


STEMS = [tuple((5 * i + 3) % 31 for i in range(16)), tuple((7 * i + 1) % 31 for i in range(19))]
STEMMED: dict[str, Callable[..., Policy]] = {
    **{name: FAMILIES[name] for name in FAMILIES if name.startswith("hugging")},
    **{name: partial(other_hugging_face, name) for name in ("qwen3", "gemma3", "gpt_oss", "deepseek_v3")},
    **{f"x-transformers {name}": FAMILIES[f"x-transformers {name}"] for name in ("rotary", "absolute")},
}
KIN = [(*STEMS[0], 5), (*STEMS[0], 2, 8, 2, 9), (*STEMS[1], 9, 9), (*STEMS[1], 1), *PROMPTS[:1]]


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("name", STEMMED)
def test_prompts_that_begin_alike_share_their_stem(name: str, prefix: tuple[int, ...]) -> None:
    """Stems of two lengths beside a prompt without one; rows branch, and stems lose their last rows."""
    policy = STEMMED[name]()
    prompts = [(*prefix, *prompt) for prompt in KIN]
    with policy.evaluating():
        rows = Rows(policy, policy.cache_kind, prefix)
        rows.add(prompts, [2, 1, 2, 2, 2], 10)
        for step in range(5):  # past windows of 4
            rows.extend(step)
        rows.keep(0, 2, 3, 4, 5, 6, 7, 8)
        rows.extend(5)
        rows.add(prompts[1:4], [1, 2, 1], 6)
        rows.extend(6)
        rows.keep(0, 1, 6, 7, 8, 11)  # the second stem is left only in the later cohort
        for step in range(7, 10):
            rows.extend(step)


@pytest.mark.parametrize("name", ["hugging face gpt2", "x-transformers absolute"])
def test_padding_beyond_the_context_does_no_harm(name: str) -> None:
    """A short end behind a long stem is padded as the long end behind a short one: 40 + 30 of 64."""
    policy = FAMILIES[name]()
    long, short = tuple(i % 29 for i in range(40)), tuple(i % 23 for i in range(20))
    prompts = [(*long, 1), (*long, 2), (*short, *long[5:35]), (*short, 9)]
    with policy.evaluating():
        rows = Rows(policy, policy.cache_kind, ())
        rows.add(prompts, [1, 2, 1, 1], 5)
        for step in range(5):
            rows.extend(step)


def test_a_stem_is_read_and_held_once() -> None:
    policy = hugging_face()
    with policy.evaluating():
        cache = HuggingFaceSharedCache(policy, ())
        cache.add(KIN[2:4], [3, 3], 10)
        assert cache.positions == 19 + 2 * 2 + 6 * 10
        cache.add(KIN[4:], [2], 10)
        assert cache.positions == 19 + 2 * 2 + 6 * 10 + 7 + 2 * 10


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("family", HF_FAMILIES)
def test_so_are_those_of_a_hugging_face_models_own_cache(family: str, prefix: tuple[int, ...]) -> None:
    live_through(hugging_face(family, dtype=torch.float32), HuggingFaceOwnCache, prefix)


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("name", X_FAMILIES)
def test_and_of_x_transformers_own_cache(name: str, prefix: tuple[int, ...]) -> None:
    live_through(x_transformer(**X_FAMILIES[name]), XTransformersOwnCache, prefix)


OTHER_X = {
    "four heads to two": {"rotary_pos_emb": True, "heads": 4, "attn_kv_heads": 2},
    "two heads to one": {"heads": 2, "attn_kv_heads": 1},
    "normed queries": {"rotary_pos_emb": True, "attn_qk_norm": True},
    "clamped scores": {"rotary_pos_emb": True, "attn_softclamp_logits": True},
    "gates and value residuals": {
        "rotary_pos_emb": True,
        "attn_gate_values": True,
        "add_value_residual": True,
    },
    "latent": {"rotary_pos_emb": True, "attn_use_latent_kv": True, "attn_dim_latent_kv": 8},
    "flash": {"rotary_pos_emb": True, "attn_flash": True},
    "repeated layers": {"rotary_pos_emb": True, "weight_tie_layers": True},
}


@pytest.mark.parametrize("name", OTHER_X)
def test_other_wrappers_share_prefixes_too(name: str) -> None:
    policy = x_transformer(**OTHER_X[name])
    assert policy.cache_kind is XTransformersSharedCache
    live_through(policy, policy.cache_kind, PREFIX)


@pytest.mark.parametrize(
    "layers",
    [
        {"attn_pre_talking_heads": True},
        {"attn_sparse_topk": 1},
        {"attn_max_attend_past": 4},
        {"residual_attn": True},
        {"rotary_xpos": True},
        {"attn_num_mem_kv": 2},
        {"attn_sigmoid": True},
        {"attn_head_learned_sink": True},
        {"attn_add_zero_kv": True},
    ],
    ids=lambda layers: next(iter(layers)),
)
def test_a_wrapper_with_attention_of_another_kind_does_not_share_prefixes(layers: dict[str, Any]) -> None:
    policy = x_transformer(**layers)
    assert policy.cache_kind is not XTransformersSharedCache
    live_through(policy, policy.cache_kind)


@pytest.mark.parametrize("name", ["hugging face llama", "x-transformers absolute", "plain"])
def test_the_slow_path_is_right_for_every_model(name: str) -> None:
    live_through(FAMILIES[name](), RecomputingCache, PREFIX)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_sampled_by_the_fastest_cache_that_is_right_for_it(name: str) -> None:
    expected = {"hugging": HuggingFaceSharedCache, "x-transformers": XTransformersSharedCache}
    kind = expected.get(name.split()[0], RecomputingCache)
    if name in ("x-transformers alibi", "x-transformers relative bias"):
        kind = XTransformersOwnCache
    for dtype in TYPES:
        assert FAMILIES[name](dtype=dtype).cache_kind is kind


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt_oss", "deepseek_v3", "mixtral", "opt"])
def test_other_families_share_prefixes_unmodified_too(family: str) -> None:
    """Windows in some layers, attention sinks, values of another size than keys, mixtures of experts."""
    policy = other_hugging_face(family)
    assert policy.cache_kind is HuggingFaceSharedCache
    live_through(policy, policy.cache_kind, PREFIX)


@pytest.mark.parametrize("family", ["stablelm", "bloom"])
def test_a_model_that_computes_its_own_attention_is_sampled_by_its_own_cache(family: str) -> None:
    policy = other_hugging_face(family)
    assert policy.cache_kind is HuggingFaceOwnCache
    live_through(policy, policy.cache_kind, PREFIX)


def test_a_recurrent_hugging_face_model_is_sampled_by_reading_everything_again() -> None:
    policy = other_hugging_face("mamba")
    assert policy.cache_kind is RecomputingCache
    live_through(policy, policy.cache_kind)


def test_the_self_check_notices_a_model_whose_cache_is_wrong() -> None:
    """Shifted tokens look one position back, which a cache of keys and values does not remember."""
    policy = x_transformer(dtype=torch.float32, shift_tokens=1)
    assert not cache_agrees(policy, XTransformersOwnCache)
    assert not cache_agrees(policy, XTransformersSharedCache)
    assert policy.cache_kind is RecomputingCache


def test_the_self_check_leaves_the_model_as_it_was() -> None:
    policy = hugging_face(dtype=torch.float32)
    policy.module.train()
    attention = policy.module.config._attn_implementation
    assert cache_agrees(policy, HuggingFaceSharedCache)
    assert policy.module.training
    assert policy.module.config._attn_implementation == attention


def test_the_real_model_agrees_with_its_cache(stories_model: Any) -> None:
    policy = policy_for(stories_model)
    assert policy.cache_kind is HuggingFaceSharedCache
    with policy.evaluating():
        rows = Rows(policy, policy.cache_kind, (1, 403, 407))
        rows.add([(1, 403, 407, 261), (1, 403, 407, 263, 377, 282, 345)], [2, 2], 20)
        for step in range(20):
            rows.extend(step)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that is not written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "plain"])
def test_memory_that_was_never_written_is_never_read(name: str) -> None:
    assert torch.utils.deterministic.fill_uninitialized_memory
    policy = FAMILIES[name](dtype=torch.float32)
    kind = policy.cache_kind
    with poisoned_memory():
        live_through(policy, kind, PREFIX)


def test_shared_prompts_hold_memory_once() -> None:
    policy = hugging_face()
    with policy.evaluating():
        shared, own = HuggingFaceSharedCache(policy, PREFIX), RecomputingCache(policy, PREFIX)
        prompts = [(*PREFIX, *prompt) for prompt in PROMPTS[:2]]
        for cache in (shared, own):
            cache.add(prompts, [3, 3], 10)
            cache.keep(torch.arange(2), torch.tensor([3, 3]))
    sizes = {"longest": 12, "num_prompts": 2, "num_rows": 6, "room": 10}
    assert shared.positions == 5 + 2 * 7 + 6 * 10
    assert shared.cost(**sizes) == shared.positions - 5
    assert own.cost(**sizes) == 6 * (12 + 10)


def test_prompts_are_read_about_a_thousand_tokens_at_a_time() -> None:
    lengths = [1500, 300, 250, 200, 3000, 10]
    assert chunks(lengths) == [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6)]
    assert chunks([]) == []
    assert chunks([5000]) == [slice(0, 1)]


def test_rows_are_told_apart_by_cohort() -> None:
    parts = by_cohort(torch.tensor([0, 2, 3, 7, 8]), [3, 4, 2])
    assert [part.tolist() for part in parts] == [[0, 2], [0], [0, 1]]
    assert [part.tolist() for part in by_cohort(torch.tensor([4]), [3, 4, 2])] == [[], [1], []]


def test_slots_wait_with_the_copy_until_a_quarter_has_ended() -> None:
    slots = Slots(8, torch.device("cpu"))
    assert slots.keep(torch.tensor([0, 1, 3, 4, 5, 6, 7])) is None
    values = torch.arange(7.0)
    assert slots.spread(values).tolist() == [0, 1, 0, 2, 3, 4, 5, 6]
    assert slots.gather(slots.spread(values)).tolist() == values.tolist()
    selected = slots.keep(torch.tensor([0, 2, 6]))
    assert selected is not None
    assert selected.tolist() == [0, 3, 7]
    assert slots.spread(values[:3]).tolist() == [0, 1, 2]
