"""What two processes find out, as JSON of each: run by torchrun, read by test_parts.py."""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from self_rewarding_lm_pytorch import processes
from self_rewarding_lm_pytorch.data.collate import collate
from self_rewarding_lm_pytorch.data.files import is_there, write_text
from self_rewarding_lm_pytorch.errors import DataError, ProcessError
from self_rewarding_lm_pytorch.generation.generator import PolicyGenerator
from self_rewarding_lm_pytorch.generation.requests import Request
from self_rewarding_lm_pytorch.generation.sampling import Sampling
from self_rewarding_lm_pytorch.generation.split import SplitGenerator
from self_rewarding_lm_pytorch.judges.function import FunctionJudge
from self_rewarding_lm_pytorch.judges.split import split
from self_rewarding_lm_pytorch.models.load import policy_for
from self_rewarding_lm_pytorch.models.logprobs import sequence_logprobs
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.models.sharding import ShardedTwin, whole_tensor
from self_rewarding_lm_pytorch.records import Candidate, Example, Prompt
from self_rewarding_lm_pytorch.training.accelerator import make_accelerator
from tests.stages import worlds


def agreements(folder: Path) -> dict[str, Any]:
    """What all processes know, and what happens where one fails."""
    found: dict[str, Any] = {
        "agreed": processes.agreed(f"of {processes.rank()}"),
        "gathered": processes.gathered(processes.rank() * 10),
        "on main": processes.on_main(processes.rank),
        "parts of 5": [[*range(5)][part] for part in processes.gathered(processes.own_part(5))],
        "parts of 1": [[0][part] for part in processes.gathered(processes.own_part(1))],
    }
    write_text(folder / "one.txt", f"written by {processes.rank()}")
    found["written"] = (folder / "one.txt").read_text()
    (folder / f"{processes.rank()}.txt").touch()
    found["only main's"] = [is_there(folder / "0.txt"), is_there(folder / "nowhere")]
    total = torch.tensor([1.0 + processes.rank(), 0.5])
    processes.add_up(total)
    found["sum"] = total.tolist()
    for name, failing in (("main fails", 0), ("other fails", 1)):
        try:
            processes.each(lambda failing=failing: _fail() if processes.rank() == failing else None)
        except (DataError, ProcessError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    try:
        processes.on_main(_fail)
    except (DataError, ProcessError) as error:
        found["writing fails"] = f"{type(error).__name__}: {error}"
    with processes.apart():
        found["apart"] = processes.gathered(processes.rank())
    return found


def _fail() -> None:
    raise DataError("item 3 is broken")


def divided() -> dict[str, Any]:
    """Sampling and judging in parts, beside doing all of it."""
    policy = policy_for(worlds.hugging_face().double())
    generator = PolicyGenerator(policy, (0,))
    requests = [Request((5 + n, 7), (n, n + 100), 2 + 9 * n) for n in range(5)]
    sampling = Sampling(temperature=1.0)
    told: list[tuple[int, int]] = []
    ours = SplitGenerator(generator).generate(
        requests, sampling, on_progress=lambda done, tokens: told.append((done, tokens))
    )
    alone = generator.generate(requests, sampling)
    none = SplitGenerator(generator).generate([], sampling)
    prompts = [Prompt(n, f"p{n}", (n + 1,)) for n in range(3)]
    shown = [
        (p, Candidate(p.index, 0, i, (1,), f"{p.text} {i}", "eos", 0, "own"))
        for p in prompts
        for i in range(2)
    ]
    asked: list[str] = []

    def reward(_: list[str], responses: list[str]) -> list[float]:
        asked.extend(responses)
        return worlds.reward([], responses)

    judgments = split(FunctionJudge(reward)).judge(shown)
    return {
        "tokens are equal": ours == alone,
        "none": none,
        "progress": [sum(n) for n in zip(*told, strict=True)],
        "total": [sum(map(len, alone)), sum(len(c.ids) for row in alone for c in row)],
        "asked": asked,
        "scores are equal": judgments == FunctionJudge(worlds.reward).judge(shown),
    }


def sharded(kind: str) -> dict[str, Any]:
    """Two steps of training with weights in parts, beside one process's own."""
    ours, alone = (policy_for(worlds.MODELS[kind]()) for _ in range(2))
    items = [_example(9 + n, n) for n in range(4)]
    twin = ShardedTwin(ours)
    rank = processes.rank()
    with twin.training():
        held, left = num_held(twin.policy.module), num_held(ours.module)
        optimizers = [
            torch.optim.AdamW(policy.module.parameters(), lr=1e-3, fused=True)
            for policy in (twin.policy, alone)
        ]
        for _ in range(2):
            (2 * twin.model(collate(items[2 * rank : 2 * rank + 2])).sum()).backward()
            sequence_logprobs(alone, collate(items)).sum().backward()
            norms = [
                float(whole_tensor(torch.nn.utils.clip_grad_norm_(policy.module.parameters(), 1.0)))
                for policy in (twin.policy, alone)
            ]
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        with twin.whole():
            inside = _apart(ours, alone)
    logits = [policy.logits(collate(items).ids[: 1 + rank]) for policy in (ours, ours.copy(), alone)]
    return {
        "share": held / num_held(alone.module),
        "left": left,
        "norms": norms,
        "inside": inside,
        "after": _apart(ours, alone),
        "logits": max(float((found - logits[2]).abs().max()) for found in logits[:2]),
        "parts": sorted({type(p).__name__ for p in twin.policy.module.parameters()}),
    }


def num_held(module: nn.Module) -> int:
    """Elements of the parameters that this process holds."""
    return sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in module.parameters())


def _example(length: int, seed: int) -> Example:
    ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))
    return Example(ids, torch.arange(length) >= 3)


def _apart(one: Policy, other: Policy) -> float:
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    atexit.register(lambda: (out / f"left-{os.environ['RANK']}").write_text(str(not dist.is_initialized())))
    make_accelerator({"cpu": True})
    results = {
        "agreements": agreements(out),
        "divided": divided(),
        **{kind: sharded(kind) for kind in ("hugging face", "x-transformers")},
    }
    (out / f"found-{processes.rank()}.json").write_text(json.dumps(results))
