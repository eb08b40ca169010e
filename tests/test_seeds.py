"""Random numbers by address: in range, uniform, independent, and the same in any batch.

The keys are fixed, so these tests cannot fail by chance; the odds stated are those with which a right
generator would have failed when the keys were chosen.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, pearsonr

from self_rewarding_lm_pytorch.seeds import address, uniforms

COUNT = 20_000
ODDS = 1e-6


def keys(count: int = COUNT) -> torch.Tensor:
    return torch.tensor([address("test of seeds", i) for i in range(count)])


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=5))
def test_an_address_is_a_63_bit_number(parts: list[int | str]) -> None:
    assert 0 <= address(*parts) < 2**63
    assert address(*parts) == address(*parts)


def test_an_address_is_the_same_on_every_machine() -> None:
    """Recorded when first written; a change would make every stored run irreproducible."""
    assert address(0, "self_reward", 17) == 7089148875121514603


@pytest.mark.parametrize(
    ("one", "other"), [((1, 2), (12,)), (("1",), (1,)), ((1, 23), (12, 3)), ((), (0,)), (("a", "b"), ("ab",))]
)
def test_different_places_have_different_addresses(one: tuple[int | str], other: tuple[int | str]) -> None:
    assert address(*one) != address(*other)


def test_uniforms_lie_in_the_half_open_unit_interval() -> None:
    extremes = torch.tensor([0, 1, 2**63 - 1, -(2**63), -1])
    for position in (0, 1, 5, 2**20):
        for some in (keys(2_000), extremes):
            numbers = uniforms(some, position)
            assert numbers.dtype == torch.float64
            assert bool(((numbers >= 0) & (numbers < 1)).all())


def test_uniforms_follow_the_published_generator() -> None:
    """SplitMix64 from seed 1234567: its first outputs are listed on rosettacode.org."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for position, output in enumerate(outputs):
        assert uniforms(torch.tensor([1234567]), position).item() == (output >> 11) * 2.0**-53


@pytest.mark.parametrize("position", [0, 1, 250])
def test_uniforms_are_uniform_over_keys(position: int) -> None:
    """Kolmogorov-Smirnov, and chi-square over 100 cells; each fails a right generator 1 in a million."""
    numbers = uniforms(keys(), position).numpy()
    assert kstest(numbers, "uniform").pvalue > ODDS
    counts = torch.bincount(torch.from_numpy(numbers * 100).long(), minlength=100)
    assert chisquare(counts.numpy()).pvalue > ODDS


def test_uniforms_are_uniform_over_positions_of_one_key() -> None:
    key = torch.tensor([address("one key")])
    numbers = torch.cat([uniforms(key, position) for position in range(5_000)])
    assert kstest(numbers.numpy(), "uniform").pvalue > ODDS


def test_neighbouring_keys_and_positions_are_independent() -> None:
    """Correlation, and chi-square over a 10 x 10 grid of (this, the next); 1 in a million each."""
    plain_neighbours = torch.arange(COUNT)  # even keys that differ by 1, without any hashing
    for first, second in (
        (uniforms(keys(), 4)[:-1], uniforms(keys(), 4)[1:]),
        (uniforms(keys(), 4), uniforms(keys(), 5)),
        (uniforms(plain_neighbours, 0)[:-1], uniforms(plain_neighbours, 0)[1:]),
    ):
        assert pearsonr(first.numpy(), second.numpy()).pvalue > ODDS
        cells = (first * 10).long() * 10 + (second * 10).long()
        assert chisquare(torch.bincount(cells, minlength=100).numpy()).pvalue > ODDS


def test_a_number_depends_on_its_key_and_position_alone() -> None:
    together = uniforms(keys(50), 7)
    assert torch.equal(together.flip(0), uniforms(keys(50).flip(0), 7))
    assert [uniforms(key[None], 7).item() for key in keys(50)] == together.tolist()


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    first = uniforms(keys(5), 0)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(2)
    assert torch.equal(uniforms(keys(5), 0), first)
