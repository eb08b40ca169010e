"""Training items on disk come back equal, one at a time, or say that they cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.data import item_file
from self_rewarding_lm_pytorch.data.item_file import examples_in, pairs_in, write_examples, write_pairs
from self_rewarding_lm_pytorch.data.lazy import Joined
from self_rewarding_lm_pytorch.errors import CheckpointError, DataError
from self_rewarding_lm_pytorch.records import Example, PairExample


def example(ids: list[int], is_target: list[bool]) -> Example:
    return Example(torch.tensor(ids, dtype=torch.int64), torch.tensor(is_target, dtype=torch.bool))


def shown(item: Example) -> tuple[list[int], list[bool]]:
    assert item.ids.dtype == torch.int64
    assert item.is_target.dtype == torch.bool
    return item.ids.tolist(), item.is_target.tolist()


def shown_pair(pair: PairExample) -> tuple[object, ...]:
    return pair.index, shown(pair.chosen), shown(pair.rejected), pair.margin, pair.certainty


TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), max_size=20)
EXAMPLES = TOKENS.map(lambda tokens: example([i for i, _ in tokens], [b for _, b in tokens]))
NUMBERS = st.floats(allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(examples=st.lists(EXAMPLES, max_size=12), rows=st.integers(1, 5))
def test_whatever_the_masks_and_lengths_examples_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Example], rows: int
) -> None:
    path = tmp_path_factory.mktemp("items") / "x.arrow"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(item_file, "BATCH_ROWS", rows)
        write_examples(path, iter(examples))
    found = examples_in(path)
    assert len(found) == len(examples)
    assert [shown(each) for each in found] == [shown(each) for each in examples]
    assert [shown(found[place]) for place in range(-len(found), 0)] == [shown(each) for each in examples]
    assert [shown(each) for each in found[1:4]] == [shown(each) for each in examples[1:4]]


@settings(max_examples=40, deadline=None)
@given(
    sides=st.lists(st.tuples(EXAMPLES, EXAMPLES, st.none() | NUMBERS, st.floats(0, 1)), max_size=8),
    rows=st.integers(1, 4),
)
def test_pairs_come_back_equal_with_their_labels_and_their_places(
    tmp_path_factory: pytest.TempPathFactory,
    sides: list[tuple[Example, Example, float | None, float]],
    rows: int,
) -> None:
    pairs = [PairExample(number, *side) for number, side in enumerate(sides)]
    path = tmp_path_factory.mktemp("items") / "x.arrow"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(item_file, "BATCH_ROWS", rows)
        write_pairs(path, iter(pairs))
    assert [shown_pair(pair) for pair in pairs_in(path)] == [shown_pair(pair) for pair in pairs]


def test_long_items_end_a_batch_before_it_holds_too_many_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_file, "BATCH_TOKENS", 10)
    items = [example([7] * length, [True] * length) for length in (4, 7, 30, 1)]
    write_examples(tmp_path / "x.arrow", items)
    with pa.memory_map(str(tmp_path / "x.arrow")) as file:
        reader = pa.ipc.open_file(file)
        sizes = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
    assert sizes == [2, 1, 1]
    assert [len(each) for each in examples_in(tmp_path / "x.arrow")] == [4, 7, 30, 1]


def test_what_is_written_is_taken_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_file, "BATCH_ROWS", 2)
    made: list[int] = []
    held: list[int] = []
    real = item_file._arrays

    def counted(kind: str, items: list[Example], sides: object) -> object:
        held.append(len(made))
        return real(kind, items, sides)

    def source() -> Iterator[Example]:
        for number in range(6):
            made.append(number)
            yield example([number], [False])

    monkeypatch.setattr(item_file, "_arrays", counted)
    write_examples(tmp_path / "x.arrow", source())
    assert held == [2, 4, 6]


def test_an_item_outside_the_file_is_an_index_error(tmp_path: Path) -> None:
    write_examples(tmp_path / "x.arrow", [example([1], [False])])
    found = examples_in(tmp_path / "x.arrow")
    for place in (1, -2):
        with pytest.raises(IndexError, match=f"item {place} of 1"):
            found[place]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_named_and_not_read(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.arrow"
    write_examples(path, [example([1, 2, 3], [False, True, True])] * 500)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"x\.arrow cannot be read.*remove it, and the same command"):
        examples_in(path)


def test_a_file_in_which_a_byte_changed_is_not_trained_on(tmp_path: Path) -> None:
    """Another id would be another item, and nobody would be told."""
    path = tmp_path / "data.arrow"
    write_examples(path, [example([5, 6, 7, 8], [False, True, True, True])] * 20)
    whole, before = path.read_bytes(), [shown(item) for item in examples_in(path)]
    num_refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert [shown(item) for item in examples_in(path)] == before, "padding, at the most"
        except CheckpointError as error:
            assert "cannot be read" in str(error)
            num_refused += 1
    assert num_refused > 20


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_examples(tmp_path / "x.arrow", [example([1], [False])])
    with pytest.raises(CheckpointError, match="it does not hold pairs, but ids, is_target"):
        pairs_in(tmp_path / "x.arrow")
    with pytest.raises(CheckpointError, match=r"gone\.arrow cannot be read"):
        examples_in(tmp_path / "gone.arrow")


def test_nothing_is_left_where_an_item_could_not_be_made(tmp_path: Path) -> None:
    def source() -> Iterator[Example]:
        yield example([1], [False])
        raise DataError("item 1 is wrong")

    with pytest.raises(DataError, match="item 1 is wrong"):
        write_examples(tmp_path / "x.arrow", source())
    assert not (tmp_path / "x.arrow").exists()
    with pytest.raises(DataError, match=r"token id 2147483648, and ids over 2147483647"):
        write_examples(tmp_path / "x.arrow", [example([2**31], [False])])


def test_joined_sequences_are_one() -> None:
    joined = Joined([1, 2], (), [3])
    assert (len(joined), list(joined), joined[-1], joined[1:], joined[2]) == (3, [1, 2, 3], 3, [2, 3], 3)
    assert not Joined()
    with pytest.raises(IndexError):
        joined[3]
