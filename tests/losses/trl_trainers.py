"""TRL's trainers as functions of log-probs, for test_trl alone: TRL may be absent.

The trainers run their real loss methods: each is made without its constructor, which wants a model, a
tokenizer and a data set, and gets the attributes that those methods read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from self_rewarding_lm_pytorch.records import PairLogProbs

TOKENS = 6  # after the first, which is the prompt and is never predicted
VOCAB = 5


@dataclass(frozen=True)
class Batch:
    """Chosen rows, then rejected rows; row i answers with its first `lengths[i]` tokens."""

    ids: Tensor  # (2B, 1 + TOKENS)
    lengths: Tensor  # (2B,)
    drawn: Tensor  # (2B, TOKENS) log-probs or (2B, 1 + TOKENS, VOCAB) logits: what gradients go to
    reference: Tensor  # (2B,) summed log-probs

    @property
    def mask(self) -> Tensor:
        return torch.arange(1 + TOKENS)[None] <= self.lengths[:, None]

    @property
    def inputs(self) -> Tensor:
        """What TRL's model says; its log-probs are zero outside the response."""
        return self.drawn * self.targets[:, 1:] if self.drawn.dim() == 2 else self.drawn

    @property
    def targets(self) -> Tensor:
        """True on response tokens."""
        mask = self.mask.clone()
        mask[:, 0] = False
        return mask


def batch(seed: int, *, logits: bool, equal_chosen: bool) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    count = 1 + seed % 5
    lengths = torch.randint(1, TOKENS + 1, (2 * count,), generator=generator)
    if equal_chosen:  # TRL takes a mean over the tokens of all responses, we of each response's own
        lengths[:count] = lengths[0]
    shape = (2 * count, 1 + TOKENS, VOCAB) if logits else (2 * count, TOKENS)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    drawn = drawn if logits else -drawn.exp()
    ids = torch.randint(0, VOCAB, (2 * count, 1 + TOKENS), generator=generator)
    reference = -4 * torch.rand(2 * count, generator=generator, dtype=torch.float64) * lengths
    return Batch(ids, lengths, drawn.requires_grad_(), reference)


def ours(loss: Any, some: Batch, beta: float) -> Tensor:
    """The mean loss of the batch."""
    logprobs = some.inputs
    if logprobs.dim() == 3:
        taken = logprobs.log_softmax(-1)[:, :-1].gather(-1, some.ids[:, 1:, None]).squeeze(-1)
        logprobs = taken * some.targets[:, 1:]
    chosen, rejected = logprobs.sum(1).chunk(2)
    value = loss(PairLogProbs(chosen, rejected, *some.reference.chunk(2), *some.lengths.chunk(2)), beta)
    return value.mean()


def trainer_of(kind: type, **attributes: Any) -> Any:
    """A trainer of TRL's class with the attributes its loss methods read."""
    trainer = object.__new__(kind)
    common = {
        "accelerator": Accelerator(cpu=True),
        "model": nn.Identity(),
        "aux_loss_enabled": False,
        "is_encoder_decoder": False,
        "pad_token_id": 0,
        "padding_value": 0,
    }
    trainer.__dict__.update({**common, **attributes})
    return trainer


def trl_dpo(loss_types: Mapping[str, float], some: Batch, beta: float, **options: float) -> Tensor:
    """DPOTrainer on a model that says the batch's log-probs."""
    from trl import DPOTrainer

    trainer = trainer_of(
        DPOTrainer,
        beta=beta,
        loss_types=list(loss_types),
        loss_weights=list(loss_types.values()),
        label_smoothing=options.get("label_smoothing", 0.0),
        args=SimpleNamespace(discopop_tau=options.get("discopop_tau"), max_length=None),
        precompute_ref_logps=True,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    nothing = torch.zeros_like(some.inputs)

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(
            log_probs=some.inputs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )

    chosen, rejected = some.reference.chunk(2)
    inputs = {
        "input_ids": some.ids,
        "attention_mask": some.mask.long(),
        "completion_mask": some.targets.long(),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    value: Tensor = trainer.compute_loss(model, inputs)
    return value


def trl_pairs(trainer: Any, some: Batch) -> Tensor:
    """CPOTrainer or ORPOTrainer on a model that says the batch's logits."""
    labels = some.ids.masked_fill(~some.targets, -100)
    columns = {"input_ids": some.ids, "attention_mask": some.mask.long(), "labels": labels}
    inputs = {
        f"{side}_{key}": value
        for key, both in columns.items()
        for side, value in zip(("chosen", "rejected"), both.chunk(2), strict=True)
    }
    value, _ = trainer.get_batch_loss_metrics(lambda *_, **__: SimpleNamespace(logits=some.inputs), inputs)
    found: Tensor = value
    return found


def trl_cpo(loss_type: str, some: Batch, beta: float, **options: float) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    attributes = {"loss_type": loss_type, "beta": beta, "alpha": 0.0, "cpo_alpha": 0.0}
    smoothing = {"label_smoothing": options.get("label_smoothing", 0.0)}
    gamma = {"simpo_gamma": options.get("gamma")}
    return trl_pairs(trainer_of(CPOTrainer, **attributes, **smoothing, **gamma), some)


def trl_orpo(some: Batch, beta: float) -> Tensor:
    from trl.experimental.orpo import ORPOTrainer

    return trl_pairs(trainer_of(ORPOTrainer, beta=beta), some)
