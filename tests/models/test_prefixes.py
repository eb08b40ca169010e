"""Which prompts begin alike."""

import random

import pytest

from self_rewarding_lm_pytorch.models.prefixes import families, reading_order, shared_prefix

A, B = tuple(range(20)), tuple(range(100, 140))


def grouped(prompts: list[tuple[int, ...]], start: int = 0) -> set[tuple[frozenset[int], int]]:
    return {(frozenset(family.members), family.stem) for family in families(prompts, start)}


def test_the_answers_to_a_prompt_are_a_family() -> None:
    prompts = [(*B, 1, 2), (*A, 7), (*B, 3), (*A, 8, 9), (5, 5)]
    assert grouped(prompts) == {(frozenset({0, 2}), 40), (frozenset({1, 3}), 20), (frozenset({4}), 0)}


def test_a_stem_counts_from_where_all_prompts_still_agree() -> None:
    prompts = [(9, 9, 9, *A, 7), (9, 9, 9, *A, 8)]
    assert grouped(prompts, 3) == {(frozenset({0, 1}), 20)}


@pytest.mark.parametrize("common", [15, 16])
def test_a_stem_has_at_least_16_tokens(common: int) -> None:
    prompts = [(*A[:common], 77), (*A[:common], 88)]
    assert len(families(prompts)) == (2 if common == 15 else 1)


def test_a_token_of_each_prompt_is_left_over() -> None:
    assert grouped([A, A]) == {(frozenset({0, 1}), 19)}
    assert grouped([A, (*A, 1, 2)]) == {(frozenset({0, 1}), 19)}
    assert shared_prefix([A, A]) == A[:19]


def test_a_stranger_that_would_shorten_the_stem_too_much_stays_out() -> None:
    """Four that share 40 tokens save 120; with a fifth that shares 20 they would save 80."""
    prompts = [(*B, i) for i in range(4)] + [(*B[:20], 99)]
    assert grouped(prompts) == {(frozenset({0, 1, 2, 3}), 40), (frozenset({4}), 0)}
    assert grouped([*prompts[:2], prompts[4]]) == {(frozenset({0, 1, 2}), 20)}


def test_answers_that_begin_alike_stay_with_the_other_answers_to_their_prompt() -> None:
    prompts = [(*B, 1, 2), (*B, 3, 4), (*B, 3, 5), (*B, 6), (*A, 1), (*A, 2)]
    assert grouped(prompts) == {(frozenset({0, 1, 2, 3}), 40), (frozenset({4, 5}), 20)}


def test_prompts_that_share_less_than_16_tokens_have_no_prefix() -> None:
    assert shared_prefix([(*A[:15], 1), (*A[:15], 2)]) == ()
    assert shared_prefix([(*A[:16], 1), (*A[:16], 2)]) == A[:16]
    assert shared_prefix([A]) == shared_prefix([]) == ()


def most_saved_by_neighbours(ordered: list[tuple[int, ...]]) -> int:
    """The best of all ways to cut an ordered list into two families, or to leave it whole."""

    def saved(own: list[tuple[int, ...]]) -> int:
        limit = min(map(len, own), default=1) - 1
        stem = max(length for length in range(limit + 1) if len({each[:length] for each in own}) < 2)
        return stem * (len(own) - 1) if stem >= 16 else 0

    return max(saved(ordered[:cut]) + saved(ordered[cut:]) for cut in range(len(ordered)))


def test_families_part_the_prompts_and_their_members_agree() -> None:
    draw = random.Random(0)
    for _ in range(50):
        openings = [tuple(draw.randrange(2) for _ in range(draw.randrange(1, 40))) for _ in range(4)]
        prompts = [
            (*draw.choice(openings), *(draw.randrange(3) for _ in range(1 + draw.randrange(5))))
            for _ in range(30)
        ]
        found = families(prompts)
        saved = sum(family.stem * (len(family.members) - 1) for family in found)
        assert saved >= most_saved_by_neighbours(sorted(prompts))
        assert sorted(number for family in found for number in family.members) == [*range(30)]
        for family in found:
            own = [prompts[number] for number in family.members]
            assert len({prompt[: family.stem] for prompt in own}) == 1
            assert min(map(len, own)) > family.stem
            assert (family.stem >= 16) == (len(own) > 1)


def test_families_are_read_side_by_side_the_large_and_long_ones_first() -> None:
    prompts = [(5,) * 90, (*A, 7), (*B, 1), (*A, 7, 8), (*B, 2, 3), (5,) * 3]
    assert reading_order(prompts) == [4, 2, 3, 1, 0, 5]
    assert reading_order([]) == []
