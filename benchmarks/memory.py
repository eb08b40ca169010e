"""What memory a run takes as it grows: over candidates that are searched, and over pairs that are trained on.

    python benchmarks/memory.py --candidates 50000
    python benchmarks/memory.py --pairs 1000000

Anonymous memory is what the program holds; resident memory counts pages of mapped files too, which the system
takes back when it needs them. Both are in MB (2^20 bytes), of a process of its own on one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from self_rewarding_lm_pytorch.alarms import RULES
from self_rewarding_lm_pytorch.pipeline import run
from self_rewarding_lm_pytorch.progress import Reporter
from self_rewarding_lm_pytorch.text import FunctionCodec

VOCAB = 64
PER_PROMPT = 4
TAIL = 5_000  # candidates after which growth is measured: before that, buffers reach their size
PAGE = 10_000
FEW_PAIRS = 1_000


def tiny_llama() -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config)


def codec() -> FunctionCodec:
    """A token for each letter, of 63."""
    return FunctionCodec(
        lambda text: [1 + ord(letter) % (VOCAB - 1) for letter in text],
        lambda ids: "".join(chr(64 + number) for number in ids.tolist()),
        eos_id=0,
        vocab_size=VOCAB,
    )


def memory() -> tuple[float, float]:
    """Anonymous and resident memory of this process now, in MB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        sizes = {
            name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest.strip()
        }
        return float(sizes["RssAnon"]) / 1024, float(sizes["VmRSS"]) / 1024
    except OSError:
        import psutil  # where there is no /proc

        resident = psutil.Process().memory_info().rss / 2**20
        return resident, resident


def search(num: int) -> list[tuple[int, float, float]]:
    """(candidates, anonymous MB, resident MB) at each call of the reward, which is at least one a shard."""
    samples: list[tuple[int, float, float]] = []
    judged = 0

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        nonlocal judged
        judged += len(responses)
        samples.append((judged, *memory()))
        return [float(sum(map(ord, text)) % 7) for text in responses]

    prompts = [f"prompt {number}" for number in range(num // PER_PROMPT)]
    _run(
        {
            "kind": "external_reward",
            "prompts": prompts,
            "candidates": {"num": PER_PROMPT, "temperature": 1.0, "max_new_tokens": 8},
            "reward": reward,
            "train": {"loss": "simpo", "reference": "none", "num_steps": 1},
        }
    )
    return samples


def growth(samples: list[tuple[int, float, float]]) -> float:
    """MB of anonymous memory for each 10,000 candidates, by least squares, once TAIL have been made."""
    tail = [(done, anonymous) for done, anonymous, _ in samples if done > TAIL]
    if len(tail) < 2:
        return float("nan")
    xs, ys = (torch.tensor(column, dtype=torch.float64) for column in zip(*tail, strict=True))
    away = xs - xs.mean()
    return float((away * (ys - ys.mean())).sum() / (away**2).sum()) * PAGE


class Pairs:
    """So many pairs of ids, each made as it is asked for: (chosen, rejected, prompt length)."""

    def __init__(self, num: int) -> None:
        self._num = num

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        prompt = [1 + number % 61, 1 + number % 59, 1 + number % 53, 1 + number % 47]
        chosen = [*prompt, *(1 + (number * place) % 63 for place in range(1, 8)), 0]
        rejected = [*prompt, *(1 + (number + place) % 63 for place in range(1, 6)), 0]
        return torch.tensor(chosen), torch.tensor(rejected), len(prompt)


def training(num: int, reference: str) -> dict[str, float]:
    """Peaks over 50 steps of DPO on so many pairs, and the size of the file they were read from."""
    peak = [0.0, 0.0]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            peak[:] = map(max, peak, memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.monotonic()
    size = 0.0

    def look(folder: Path) -> None:
        nonlocal size
        size = sum(file.stat().st_size for file in folder.rglob("items/*")) / 2**20

    train = {"num_steps": 50, "batch_size": 16, "reference": reference, "log_every": 10}
    train |= {"reference_ema_decay": 0.99} if reference == "ema" else {}
    _run({"kind": "dpo", "data": Pairs(num), "train": train}, look)
    is_over.set()
    watcher.join()
    seconds = time.monotonic() - started
    return {"pairs": num, "anonymous": peak[0], "resident": peak[1], "file": size, "seconds": seconds}


def _run(stage: dict[str, Any], look: Callable[[Path], None] = lambda folder: None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = {
            "model": tiny_llama(),
            "tokenizer": codec(),
            "run": folder,
            "alarms": dict.fromkeys(RULES, "off"),  # this model's answers are noise
            "stages": [{"name": "own", **stage}],
        }
        run(plan, reporter=Reporter(quiet=True))
        look(Path(folder))


def show_candidates(num: int) -> None:
    samples = search(num)
    print("candidates  anonymous MB  resident MB")
    shown = [sample for number, sample in enumerate(samples) if number % max(1, len(samples) // 20) == 0]
    for done, anonymous, resident in [*shown, samples[-1]]:
        print(f"{done:>10,}  {anonymous:>12.1f}  {resident:>11.1f}")
    print(f"growth for each {PAGE:,} candidates after the first {TAIL:,}: {growth(samples):+.2f} MB")


def show_pairs(num: int, reference: str) -> None:
    print("     pairs  anonymous MB  resident MB  file MB  seconds")
    for wanted in (FEW_PAIRS, num):  # each in a process of its own, as a peak is of all that a process did
        command = [sys.executable, __file__, "--pairs", str(wanted), "--reference", reference, "--as-json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        row = json.loads(done)
        print(
            f"{row['pairs']:>10,}  {row['anonymous']:>12.1f}  {row['resident']:>11.1f}  {row['file']:>7.1f}"
            f"  {row['seconds']:>7.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, help="search so many")
    parser.add_argument("--pairs", type=int, help="train on so many")
    parser.add_argument("--reference", default="stage_start", help="of the training; ema asks a second model")
    parser.add_argument("--as-json", action="store_true", help="of --pairs: this number alone, as one line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not (arguments.candidates or arguments.pairs):
        parser.error("give --candidates or --pairs")
    if arguments.candidates:
        show_candidates(arguments.candidates)
    if arguments.pairs and arguments.as_json:
        print(json.dumps(training(arguments.pairs, arguments.reference)))
    elif arguments.pairs:
        show_pairs(arguments.pairs, arguments.reference)


if __name__ == "__main__":
    main()
