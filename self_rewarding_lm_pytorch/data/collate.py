"""Examples to right-padded batches. Knows no tokenizer: masks come with the examples."""

from collections.abc import Sequence

import torch

from self_rewarding_lm_pytorch.records import Example, PairBatch, PairExample, SequenceBatch


def collate(examples: Sequence[Example]) -> SequenceBatch:
    """Rows of different length side by side, zeros behind the shorter ones."""
    lengths = torch.tensor([len(example) for example in examples], dtype=torch.int64)
    shape = (len(examples), int(lengths.max()))
    ids = torch.zeros(shape, dtype=torch.int64)
    is_target = torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = example.ids
        is_target[row, : len(example)] = example.is_target
    return SequenceBatch(ids, is_target, lengths)


def collate_pairs(pairs: Sequence[PairExample]) -> PairBatch:
    """Pairs to two batches in the same order."""
    return PairBatch(
        index=torch.tensor([pair.index for pair in pairs], dtype=torch.int64),
        chosen=collate([pair.chosen for pair in pairs]),
        rejected=collate([pair.rejected for pair in pairs]),
    )


def batch_from_padded(ids: torch.Tensor, mask: torch.Tensor, is_target: torch.Tensor) -> SequenceBatch:
    """A batch padded by somebody else, on either side, made right-padded.

    ids, mask (True on real tokens), is_target: (B, T). The first real token is never a target.
    """
    order = torch.argsort((~mask).int(), dim=1, stable=True)  # real tokens first, order kept
    lengths = mask.sum(dim=1)
    width = int(lengths.max())
    real = mask.gather(1, order)[:, :width]
    moved_ids = ids.gather(1, order)[:, :width].masked_fill(~real, 0)
    moved_target = is_target.gather(1, order)[:, :width] & real
    moved_target[:, 0] = False
    return SequenceBatch(moved_ids, moved_target, lengths)
