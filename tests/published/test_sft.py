"""The SFT stage: what carries loss, which items it takes, and its trainer_kwargs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from self_rewarding_lm_pytorch import SFTConfig
from self_rewarding_lm_pytorch.errors import ConfigError, DataError
from tests.helpers import Table
from tests.published.worlds import (
    metrics,
    run,
    same_weights,
    sft_items,
    tiny,
    trainer,
    weights,
)

FAST = {"num_epochs": 1, "batch_size": 4, "grad_accum_steps": 1, "start_learning_rate": 0.05}


def tuned(items: Any, folder: Path, *, model: Any = None, pad_id: int = -1, **kwargs: Any) -> Any:
    """A model after one SFT stage."""
    own = {key: kwargs.pop(key) for key in ("valid_dataset", "dropout") if key in kwargs}
    config = SFTConfig(items, trainer_kwargs={**FAST, **kwargs}, **{"dropout": 0.0, **own})
    return run(tiny() if model is None else model, [config], folder, pad_id=pad_id).model


def bigrams(items: Any, folder: Path, **kwargs: Any) -> Tensor:
    """Where an all-zero bigram table moved: rows are the tokens before those that carried loss."""
    model = tuned(items, folder, model=Table(torch.zeros(256, 256)), **kwargs)
    moved: Tensor = model.logits.detach()
    return moved


def touched(logits: Tensor) -> list[int]:
    return logits.abs().sum(dim=1).nonzero()[:, 0].tolist()


ROW = torch.tensor([10, 11, 12, 13, 14])


def test_the_model_learns_the_responses_tokens(tmp_path: Path) -> None:
    learnt = bigrams([(ROW, torch.tensor(2))], tmp_path)
    assert [int(learnt[before].argmax()) for before in (11, 12, 13)] == [12, 13, 14]


def test_only_the_response_carries_loss(tmp_path: Path) -> None:
    assert touched(bigrams([(ROW, torch.tensor(2))], tmp_path)) == [11, 12, 13]


def test_position_0_never_carries_loss(tmp_path: Path) -> None:
    assert touched(bigrams([(ROW, torch.tensor(0))], tmp_path)) == [10, 11, 12, 13]


def test_a_prompt_mask_is_as_good_as_the_prompts_length(tmp_path: Path) -> None:
    items = sft_items(6)
    masked = [(ids, torch.arange(len(ids)) < length) for ids, length in items]
    assert same_weights(tuned(items, tmp_path / "a"), tuned(masked, tmp_path / "b"))


def test_a_mask_may_mark_prompt_tokens_anywhere(tmp_path: Path) -> None:
    mask = torch.tensor([True, False, True, False, True])
    assert touched(bigrams([(ROW, mask)], tmp_path)) == [10, 12]


def test_a_prompt_length_may_be_a_plain_integer(tmp_path: Path) -> None:
    plain = [(ids, int(length)) for ids, length in sft_items(4)]
    assert same_weights(tuned(plain, tmp_path / "a"), tuned(sft_items(4), tmp_path / "b"))


def test_negative_padding_is_cut_off(tmp_path: Path) -> None:
    items = sft_items(4)
    padded = [(torch.cat((ids, torch.full((5,), -1))), length) for ids, length in items]
    assert same_weights(tuned(padded, tmp_path / "a"), tuned(items, tmp_path / "b"))


def test_padding_that_could_be_a_token_is_refused_without_a_mask(tmp_path: Path) -> None:
    padded = torch.tensor([10, 11, 12, 0, 0])
    with pytest.raises(DataError, match="item 0 ends with pad_id 0"):
        tuned([(padded, torch.tensor(2))], tmp_path, pad_id=0)
    mask = torch.tensor([True, True, False, True, True])
    assert touched(bigrams([(padded, mask)], tmp_path / "mask", pad_id=0)) == [11]
    assert touched(bigrams([(ROW, torch.tensor(2))], tmp_path / "none", pad_id=0)) == [11, 12, 13]


def test_rows_may_differ_in_length(tmp_path: Path) -> None:
    items = [(torch.tensor([1, 2, 3]), torch.tensor(1)), (torch.arange(20, 31), torch.tensor(8))]
    assert touched(bigrams(items, tmp_path)) == [1, 2, 27, 28, 29]


def test_the_callers_items_are_not_written_to(tmp_path: Path) -> None:
    padded = torch.cat((ROW, torch.full((3,), -1)))
    tuned([(padded, torch.tensor(2))], tmp_path)
    assert padded.tolist() == [10, 11, 12, 13, 14, -1, -1, -1]


def test_ids_get_no_end_of_sequence_and_text_does(tmp_path: Path) -> None:
    ids = bigrams([(ROW, torch.tensor(2))], tmp_path / "ids")
    assert 14 not in touched(ids)
    config = SFTConfig([{"prompt": "ab", "response": "cd"}], dropout=0.0, trainer_kwargs=FAST)
    model = run(Table(torch.zeros(256, 256)), [config], tmp_path / "text", eos_id=7).model
    assert touched(model.logits.detach()) == [ord(char) for char in "bcd"]
    assert int(model.logits[ord("d")].argmax()) == 7


def test_an_item_longer_than_the_context_is_refused_and_not_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item 0 has 70 tokens, but the model's context is 64"):
        tuned(sft_items(1, length=70), tmp_path)


def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="256, outside the vocabulary"):
        tuned([(torch.tensor([1, 256, 3]), torch.tensor(1))], tmp_path)


def test_tokens_equal_to_ignore_index_carry_no_loss(tmp_path: Path) -> None:
    items = [(torch.tensor([10, 11, 99, 13, 99]), torch.tensor(1))]
    assert touched(bigrams(items, tmp_path, ignore_index=99)) == [10, 99]


class Items(Dataset[Any]):
    """A data set that counts how often it is asked."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.reads = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.items[index]


def test_a_list_of_data_sets_is_joined(tmp_path: Path) -> None:
    items = sft_items(5)
    parts = [Items(items[:2]), Items(items[2:])]
    assert same_weights(tuned(parts, tmp_path / "a"), tuned(Items(items), tmp_path / "b"))


def test_items_are_read_once_however_many_epochs_there_are(tmp_path: Path) -> None:
    data = Items(sft_items(5))
    tuned(data, tmp_path, num_epochs=4)
    assert data.reads == 5


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (3, 6)])
def test_num_epochs_is_the_number_of_passes(tmp_path: Path, epochs: int, steps: int) -> None:
    tuned(sft_items(6), tmp_path, num_epochs=epochs)
    assert metrics(tmp_path)[-1]["step"] == steps


def test_the_default_is_three_epochs_with_16_items_in_each_of_2_passes(tmp_path: Path) -> None:
    run(tiny(), [SFTConfig(train_dataset=sft_items(33))], tmp_path)
    assert metrics(tmp_path)[-1]["step"] == 3 * 2


def test_accumulated_passes_make_one_step(tmp_path: Path) -> None:
    items = [(row[: 5 + i], length) for i, (row, length) in enumerate(sft_items(6, length=12))]
    whole = tuned(items, tmp_path / "a", batch_size=6, grad_accum_steps=1)
    split = tuned(items, tmp_path / "b", batch_size=2, grad_accum_steps=3)
    other = tuned(items, tmp_path / "c", batch_size=2, grad_accum_steps=1)
    assert torch.allclose(weights(whole), weights(split), atol=1e-4)
    assert not torch.allclose(weights(whole), weights(other), atol=1e-2)


def test_the_learning_rate_falls_from_start_to_end_over_the_decay_steps(tmp_path: Path) -> None:
    kwargs = {"end_learning_rate": 0.01, "learning_rate_num_decay_steps": 5}
    tuned(sft_items(8), tmp_path / "long", num_epochs=3, **kwargs)  # 6 steps: past the decay
    assert metrics(tmp_path / "long")[-1]["learning_rate"] == pytest.approx(0.01)
    tuned(sft_items(4), tmp_path / "short", num_epochs=1, **kwargs)  # 1 step: at the start
    assert metrics(tmp_path / "short")[-1]["learning_rate"] == pytest.approx(0.05)


def test_weight_decay_shrinks_the_matrices_by_rate_times_decay(tmp_path: Path) -> None:
    start = tiny()
    without = tuned(sft_items(4), tmp_path / "a")
    with_decay = tuned(sft_items(4), tmp_path / "b", weight_decay=0.5)
    name = "to_logits.weight"
    moved = with_decay.state_dict()[name] - without.state_dict()[name]
    assert torch.allclose(moved, -0.05 * 0.5 * start.state_dict()[name], atol=1e-6)


def test_adam_kwargs_reach_adam(tmp_path: Path) -> None:
    still = tuned(sft_items(4), tmp_path / "a", adam_kwargs={"eps": 1e9})
    assert torch.allclose(weights(still), weights(tiny()), atol=1e-6)
    sgd_like = tuned(sft_items(8), tmp_path / "b", adam_kwargs={"betas": (0.0, 0.0)})
    assert not torch.allclose(weights(sgd_like), weights(tuned(sft_items(8), tmp_path / "c")), atol=1e-3)


def test_dropout_acts_while_training_and_is_gone_afterwards(tmp_path: Path) -> None:
    plain, dropped = (tuned(sft_items(4), tmp_path / str(p), dropout=p) for p in (0.0, 0.5))
    assert not same_weights(plain, dropped)
    rates = {part.p for part in dropped.modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {0.0}
    assert not dropped.training


def test_the_default_dropout_is_a_tenth(tmp_path: Path) -> None:
    models = [
        run(tiny(), [SFTConfig(sft_items(4), trainer_kwargs=FAST, **own)], tmp_path / name).model
        for name, own in (("default", {}), ("tenth", {"dropout": 0.1}), ("none", {"dropout": 0.0}))
    ]
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_validation_is_measured_every_so_many_steps_on_the_valid_data_alone(tmp_path: Path) -> None:
    valid = sft_items(3, seed=5)
    tuned(sft_items(16), tmp_path, valid_dataset=valid, valid_every=2, start_learning_rate=0.0,
          end_learning_rate=0.0)  # fmt: skip
    lines = [line for line in metrics(tmp_path) if "valid_loss" in line]
    assert sorted({line["step"] for line in lines}) == [2, 4]
    model = tiny()
    ids = torch.stack([row for row, _ in valid])
    logs = model(ids).log_softmax(dim=-1)[:, 2:-1].gather(-1, ids[:, 3:, None])
    assert lines[-1]["valid_loss"] == pytest.approx(-logs.mean().item(), abs=1e-4)


def test_an_unknown_trainer_key_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'batchsize'; known: .*batch_size.*Did you mean 'batch_size'"):
        trainer(tiny(), [SFTConfig(sft_items(2), trainer_kwargs={"batchsize": 2})], tmp_path)
    with pytest.raises(ConfigError, match=r"'beta1'; known: .*betas"):
        kwargs = {"adam_kwargs": {"beta1": 0.5}}
        trainer(tiny(), [SFTConfig(sft_items(2), trainer_kwargs=kwargs)], tmp_path)
    assert not tmp_path.joinpath("manifest.json").exists()
