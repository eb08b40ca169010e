"""W3's pairs, and the three sides that train on them; each side is called in a child process of its own.

Every side gets the same pairs in the same order and returns its losses and gradient norms, step by step.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import torch

from common import work as works
from common.measure import peak_memory_mb, seconds_of
from common.models import random_llama
from common.work import Sizes

PAD, EOS = 0, 1
BETA = 0.1
LEARNING_RATE = 1e-4
SEED: tuple[int | str, ...] = (works.SEED, "W3")

Pair = tuple[list[int], list[int], list[int]]  # prompt, chosen, rejected


@dataclass(frozen=True)
class Pairs:
    """What is trained on."""

    sizes: Sizes
    pairs: list[Pair]
    batch: int  # pairs in a forward pass of the peers
    accumulation: int

    @property
    def step(self) -> int:
        return self.batch * self.accumulation


def work(kind: str, small: bool) -> Pairs:
    """kind: "W3", or "W3_128k": fewer pairs, a small model and a large vocabulary."""
    if small:
        return Pairs(works.SMALL, _pairs(8, works.SMALL.vocabulary, 10), 2, 2)
    if kind == "W3":
        return Pairs(works.FULL, _pairs(96, works.FULL.vocabulary, 1), 8, 2)
    sizes = Sizes(vocabulary=128_000, hidden=128, layers=2, heads=4, kv_heads=2, feed_forward=344)
    return Pairs(sizes, _pairs(16, sizes.vocabulary, 1), 8, 1)


def _pairs(count: int, vocabulary: int, shrink: int) -> list[Pair]:
    draw = works.Draw(vocabulary, lowest=2)

    def response() -> list[int]:
        return [*draw.tokens(20 // shrink, 96 // shrink), EOS]

    return [(draw.tokens(60 // shrink, 200 // shrink), response(), response()) for _ in range(count)]


def in_step_order(task: Pairs) -> list[Pair]:
    """The pairs as our training takes them."""
    from self_rewarding_lm_pytorch.training.batching import step_indices

    count = len(task.pairs)
    order = [step_indices(count, task.step, step, *SEED, "pairs") for step in range(count // task.step)]
    return [task.pairs[number] for numbers in order for number in numbers]


def ours(kind: str, small: bool) -> dict[str, Any]:
    """This package's loop, its reference log-probs included."""
    from accelerate import Accelerator

    from self_rewarding_lm_pytorch.losses import PREFERENCE_LOSSES
    from self_rewarding_lm_pytorch.models.load import policy_for
    from self_rewarding_lm_pytorch.records import Example, PairExample
    from self_rewarding_lm_pytorch.training.batching import CPU_TOKENS
    from self_rewarding_lm_pytorch.training.loop import Hooks, train
    from self_rewarding_lm_pytorch.training.objectives import PreferenceObjective, Term
    from self_rewarding_lm_pytorch.training.reference import LiveReference, StoredReference
    from self_rewarding_lm_pytorch.training.settings import PreferenceSettings

    def example(prompt: list[int], response: list[int]) -> Example:
        is_target = torch.tensor([False] * len(prompt) + [True] * len(response))
        return Example(torch.tensor([*prompt, *response]), is_target)

    task = work(kind, small)
    policy = policy_for(random_llama(task.sizes, EOS))
    pairs = [
        PairExample(number, example(prompt, chosen), example(prompt, rejected))
        for number, (prompt, chosen, rejected) in enumerate(task.pairs)
    ]
    settings = PreferenceSettings(
        batch_size=task.step,
        learning_rate=LEARNING_RATE,
        end_learning_rate=0.0,
        schedule="linear",
        beta=BETA,
        log_every=1,
    )
    log: list[dict[str, float]] = []
    hooks = Hooks(on_log=lambda step, steps, metrics: log.append(metrics))

    def run() -> None:
        reference = StoredReference.of(
            LiveReference(policy), pairs, micro_batch_size=task.step, max_tokens=CPU_TOKENS
        )
        loss = PREFERENCE_LOSSES["dpo"]
        objective = PreferenceObjective(loss, reference, beta=BETA, fork_width=policy.fork_width)
        term = Term("pairs", pairs, objective, task.step, task.step, max_tokens=CPU_TOKENS)
        train(policy, [term], settings, accelerator=Accelerator(cpu=True), seed=SEED, hooks=hooks)

    return _measured(run, task, lambda: [(line["loss"], line["grad_norm"]) for line in log])


def trl(kind: str, small: bool) -> dict[str, Any]:
    """DPOTrainer in float32, without gradient checkpointing, which would slow it down."""
    from torch.utils.data import Sampler, SequentialSampler
    from transformers.utils import logging
    from trl import DPOConfig, DPOTrainer

    logging.disable_progress_bar()
    task = work(kind, small)

    class InOrder(DPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=task.batch,
            gradient_accumulation_steps=task.accumulation,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            beta=BETA,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = InOrder(
            model=random_llama(task.sizes, EOS),
            ref_model=random_llama(task.sizes, EOS),
            args=config,
            train_dataset=_dataset(in_step_order(task)),
            processing_class=_tokenizer(task.sizes.vocabulary),
        )
        _check(trainer.train_dataset, in_step_order(task))

        def log() -> list[tuple[float, float]]:
            steps = [line for line in trainer.state.log_history if "grad_norm" in line]
            return [(line["loss"], line["grad_norm"]) for line in steps]

        return _measured(trainer.train, task, log)


def plain(kind: str, small: bool) -> dict[str, Any]:
    """A loop as it is usually written: padded rows, all logits, the reference in the same loop."""
    task = work(kind, small)
    net: Any = random_llama(task.sizes, EOS).eval()
    reference: Any = random_llama(task.sizes, EOS).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    pairs = in_step_order(task)
    log: list[tuple[float, float]] = []

    def logprobs(net: Any, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
        width = max(len(prompt) + len(response) for prompt, response in rows)
        full = [[*p, *r, *[PAD] * (width - len(p) - len(r))] for p, r in rows]
        ids, lengths = torch.tensor(full), [(len(p), len(p) + len(r)) for p, r in rows]
        mask = torch.tensor([[1] * end + [0] * (width - end) for _, end in lengths])
        targets = torch.tensor(
            [[0] * start + [1] * (end - start) + [0] * (width - end) for start, end in lengths]
        )
        found = net(ids, attention_mask=mask).logits[:, :-1].log_softmax(dim=-1)
        return (found.gather(-1, ids[:, 1:, None])[..., 0] * targets[:, 1:]).sum(dim=1)

    def run() -> None:
        steps = len(pairs) // task.step
        for step in range(steps):
            total = 0.0
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / steps)
            for micro in range(task.accumulation):
                first = step * task.step + micro * task.batch
                batch = pairs[first : first + task.batch]
                rows = [(p, c) for p, c, _ in batch] + [(p, r) for p, _, r in batch]
                with torch.no_grad():
                    before = logprobs(reference, rows)
                chosen, rejected = (logprobs(net, rows) - before).chunk(2)
                loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean() / task.accumulation
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss)
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            log.append((total, float(norm)))

    return _measured(run, task, lambda: log)


def _measured(run: Any, task: Pairs, log: Any) -> dict[str, Any]:
    seconds, _ = seconds_of(run)
    steps = [list(map(float, line)) for line in log()]
    if len(steps) != len(task.pairs) // task.step:
        raise RuntimeError(f"{len(steps)} steps were logged")
    return {"units": len(task.pairs), "seconds": seconds, "memory_mb": peak_memory_mb(), "steps": steps}


def _dataset(pairs: list[Pair]) -> Any:
    from datasets import Dataset

    def text(ids: list[int]) -> str:
        return " ".join(f"t{number}" for number in ids)

    return Dataset.from_list(
        [{"prompt": text(p) + " ", "chosen": text(c[:-1]), "rejected": text(r[:-1])} for p, c, r in pairs]
    )


def _tokenizer(vocabulary: int) -> Any:
    """Word by word. The special tokens begin like no word, or they would split some."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[pad]": PAD, "[eos]": EOS, **{f"t{number}": number for number in range(2, vocabulary)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="[pad]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[pad]", eos_token="[eos]")


def _check(dataset: Any, pairs: list[Pair]) -> None:
    """Both sides train on the same tokens."""
    found = [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in dataset]
    if found != pairs:
        raise RuntimeError("the peer tokenizes the pairs otherwise")
