"""A .json file decoded piece by piece gives what the whole would give, and tells the place of a fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_rewarding_lm_pytorch.data import json_values
from self_rewarding_lm_pytorch.data.json_values import json_file
from self_rewarding_lm_pytorch.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
LISTS = st.lists(VALUES, max_size=6)
WAYS = st.fixed_dictionaries({"indent": st.sampled_from([None, 0, 2]), "ensure_ascii": st.booleans()})
PIECES = st.integers(1, 40)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("values") / "a.json"


def read(path: Path, text: str, piece: int) -> list[Any]:
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "PIECE", piece)
        return list(json_file(path))


@given(items=LISTS, way=WAYS, piece=PIECES)
def test_any_list_is_read_as_it_is_wherever_the_pieces_end(
    items: list[Any], way: dict[str, Any], piece: int, path: Path
) -> None:
    assert read(path, json.dumps(items, **way), piece) == items


@given(items=LISTS.filter(lambda items: len(items) > 1 and not isinstance(items[0], list)), piece=PIECES)
def test_values_one_after_the_other_are_read_as_json_lines_are(
    items: list[Any], piece: int, path: Path
) -> None:
    assert read(path, "".join(json.dumps(item) + "\n" for item in items), piece) == items


@given(
    items=LISTS,
    way=WAYS,
    piece=PIECES,
    cut=st.integers(0, 400),
    instead=st.text('[]{},:"\\1-.eE t\n\x01x', max_size=3),
    kept=st.booleans(),
)
def test_the_place_of_a_fault_is_the_one_that_the_whole_text_would_give(
    items: list[Any], way: dict[str, Any], piece: int, cut: int, instead: str, kept: bool, path: Path
) -> None:
    text = json.dumps(items, **way)
    cut = 1 + cut % len(text)  # a file that begins with none is told as one value, or as several
    text = text[:cut] + instead + (text[cut + 1 :] if kept else "")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        with pytest.raises(DataError) as raised:
            read(path, text, piece)
        told = str(raised.value)
        is_there = f"line {error.lineno}: not JSON" in told and f"at column {error.colno})" in told
        assert is_there or "is given twice" in told, "an object before the place, which json.loads lets pass"
    else:
        assert read(path, text, piece) == whole


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_a_long_line_that_no_newline_ends_is_read_in_parts_and_its_fault_is_found(
    piece: int, path: Path
) -> None:
    text = json.dumps([{"prompt": "né 😀 " * 9, "response": str(n)} for n in range(40)], ensure_ascii=False)
    assert read(path, text, piece) == json.loads(text)
    place = rf"line 1: not JSON \(Expecting value at column {len(text) + 1}\)"
    with pytest.raises(DataError, match=place):
        read(path, text[:-1] + ",]", piece)
