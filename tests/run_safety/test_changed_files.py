"""A model or a file that is not what it was under its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.pipeline import facts, run
from self_rewarding_lm_pytorch.run_folder.changes import fact_changes
from tests.helpers import byte_codec
from tests.run_safety.test_changes import begun
from tests.stages.worlds import QUIET, hugging_face, plain, plan


def test_another_model_under_the_same_name_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "model").mkdir()
    hugging_face().save_pretrained(tmp_path / "model")
    settings = plan(tmp_path / "run", "seed", "given", model=str(tmp_path / "model"), tokenizer=byte_codec())
    monkeypatch.setattr("self_rewarding_lm_pytorch.pipeline.models.load_policy", without_tokenizer)
    begun(settings)
    hugging_face(seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"model .*model, model\.safetensors: what is in it is not"):
        run(settings, reporter=QUIET)
    hugging_face().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: it was not there when this run began"):
        run(settings, reporter=QUIET)
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "README.md").write_text("words")
    assert run(settings, reporter=QUIET)["status"] == "completed"


def without_tokenizer(name: str, **arguments: Any) -> Any:
    """A model's folder as it is loaded, where the tokenizer comes from Python."""
    from transformers import AutoModelForCausalLM

    from self_rewarding_lm_pytorch.models.load import policy_for

    return policy_for(AutoModelForCausalLM.from_pretrained(name)), None


def test_a_large_model_file_that_looks_as_before_is_not_read_again(tmp_path: Path, monkeypatch: Any) -> None:
    from self_rewarding_lm_pytorch.models import checkpoint_files

    monkeypatch.setattr(checkpoint_files, "_READ_ANYWAY", 10)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    notes = checkpoint_files.notes_of(tmp_path)
    known = {"model.safetensors": {**notes["model.safetensors"], "sha256": "as it was"}}
    assert checkpoint_files.notes_of(tmp_path, known) == known, "not hashed"
    (tmp_path / "model.safetensors").write_bytes(b"x" * 99 + b"y")
    assert checkpoint_files.notes_of(tmp_path, known)["model.safetensors"]["sha256"] != "as it was"


def test_a_reward_function_or_template_that_changed_is_a_changed_file(tmp_path: Path) -> None:
    source = tmp_path / "reward.py"
    source.write_text("def reward(prompts, responses):\n    return [float(len(r)) for r in responses]\n")
    settings = plan(tmp_path / "run", "seed", "text")
    settings["stages"][1]["reward"] = f"{source}:reward"
    begun(settings)
    source.write_text("def reward(prompts, responses):\n    return [-float(len(r)) for r in responses]\n")
    with pytest.raises(ConfigError, match=r"reward\.py: what is in it is not what it was"):
        run(settings, reporter=QUIET)


def test_what_a_finished_stage_had_read_may_change(tmp_path: Path) -> None:
    data = tmp_path / "items.jsonl"
    data.write_text('{"prompt": "q", "response": "a"}\n' * 6)
    settings = plan(tmp_path / "run", "seed", "given")
    settings["stages"][0]["data"] = str(data)
    begun(settings)
    data.write_text('{"prompt": "q", "response": "b"}\n' * 6)
    assert run(settings, reporter=QUIET)["status"] == "completed"


def test_a_factory_is_known_by_the_weights_it_makes(tmp_path: Path) -> None:
    settings = plan(tmp_path, "seed")
    policy = facts.facts_of_model(facts_plan(settings), type("P", (), {"module": plain(seed=0)})())
    other = facts.facts_of_model(facts_plan(settings), type("P", (), {"module": plain(seed=1)})())
    assert policy != other
    assert fact_changes({"models": policy}, {"models": other})
    half = plain(seed=0).to(torch.bfloat16)
    assert facts.facts_of_model(facts_plan(settings), type("P", (), {"module": half})()) != policy


def facts_plan(settings: dict[str, Any]) -> Any:
    from self_rewarding_lm_pytorch.config import load_plan

    return load_plan(settings)
