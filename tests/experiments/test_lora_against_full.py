"""The comparison of LoRA with the full fine-tune runs to its table; its numbers at this size mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow.parquet import read_table

from tests.experiments.test_experiments import ran


def test_lora_and_the_full_fine_tune_are_compared_from_one_start(
    stories_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    numbers, runs = tmp_path / "numbers.json", tmp_path / "runs"
    rates = ("--rate", "5e-4", "--rate", "1e-3", "--full-rate", "5e-5")
    arguments = ("--model", str(stories_folder), "--small", "--seeds", "1", "--folder", str(runs), *rates)
    out = ran("lora_against_full.py", *arguments, "--json", str(numbers), cwd=tmp_path)
    assert "| lora |" in out and "| full | 5e-05 |" in out
    found = json.loads(numbers.read_text())
    assert set(found["sweep"]["lora"]) == {"0.0005", "0.001"}
    assert found["sweep"]["full"] == {}
    assert all(0 <= value <= 1 for values in found["reward"].values() for value in values)
    held = {path.parts[-5]: path.name for path in runs.rglob("checkpoint/*.safetensors")}
    assert held.pop("shortened") == held.pop("full-5e-05-seed-0") == "model.safetensors"
    assert len(held) == 5 and set(held.values()) == {"adapter_model.safetensors"}
    lora = next(name for name in held if name.endswith(f"{found['rate']['lora']:g}-seed-0"))
    assert "lm_head" in lora
    arms = ("full-5e-05-seed-0", lora)
    sampled = [
        [
            row
            for file in sorted((runs / arm).rglob("candidates/*.parquet"))
            for row in read_table(file).to_pylist()
        ]
        for arm in arms
    ]
    assert sampled[0] and [row["text"] for row in sampled[0]] == [row["text"] for row in sampled[1]]
