"""Models that are not there, not whole, or do not compute what a language model computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.alarms import StopRun
from self_rewarding_lm_pytorch.errors import ConfigError, GenerationError, TrainingError
from self_rewarding_lm_pytorch.models.load import load_policy
from self_rewarding_lm_pytorch.pipeline import run
from tests.bad_input import models
from tests.bad_input.models import HERE, hub_folder, with_weights
from tests.bad_input.table import Case, World, cases, check, stage
from tests.stages.worlds import QUIET

SEED = "seed"


def factory(name: str, base: str = SEED) -> Any:
    return lambda world: world.plan(stage(base), model=f"{HERE}:{name}")


def folder(make: Any) -> Any:
    """A plan whose model is the folder that `make` leaves."""
    return lambda world: world.plan(stage(SEED), model=str(make(world)))


def without(name: str) -> Any:
    def make(world: World) -> Path:
        path = hub_folder(world)
        (path / name).unlink()
        return path

    return make


def with_config(text: str) -> Any:
    def make(world: World) -> Path:
        path = hub_folder(world)
        (path / "config.json").write_text(text)
        return path

    return make


def truncated(world: World) -> Path:
    path = hub_folder(world)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return path


def pickled(world: World) -> Path:
    path = without("model.safetensors")(world)
    torch.save(models.hugging_face().state_dict(), path / "pytorch_model.bin")
    return path


CODE = "from pathlib import Path\nPath(__file__).with_name('RAN').touch()\n"


def with_code(world: World) -> Path:
    """A model that brings code, which leaves a file when it is run."""
    path = hub_folder(world)
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "mine.py").write_text(
        CODE + "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig):\n    model_type = 'mine'\n"
        "class M(LlamaForCausalLM):\n    config_class = C\n"
    )
    return path


def with_outputs(count: int) -> Any:
    """A reward model that is a language model's folder, so that it has no reward head."""

    def make(world: World) -> Any:
        path = hub_folder(world)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "num_labels": count}))
        return world.plan(stage("text", reward=None, reward_model=str(path)))

    return make


LAYER = "model.layers.0.mlp.up_proj.weight"
EMBED = "model.embed_tokens.weight"
LOADED = [
    Case(
        "a model is not there",
        lambda world: world.plan(stage(SEED), model=str(world.given / "gone")),
        ("gone", "save_pretrained"),
    ),
    Case(
        "a model's folder is empty",
        folder(lambda world: world.given),
        ("cannot be loaded", "save_pretrained"),
    ),
    Case(
        "a config is missing",
        folder(without("config.json")),
        ("config.json", "cannot be loaded", "save_pretrained"),
    ),
    Case(
        "a config is broken",
        folder(with_config("{broken")),
        ("config.json", "not a valid JSON", "save_pretrained"),
    ),
    Case(
        "a model's kind is unknown",
        folder(with_config('{"model_type": "nobodys"}')),
        ("`nobodys`", "save_pretrained"),
    ),
    Case(
        "the weights are missing",
        folder(without("model.safetensors")),
        ("no file named model.safetensors", "save_pretrained"),
    ),
    Case(
        "the tokenizer is missing",
        folder(without("tokenizer.json")),
        ("the tokenizer of model", "save_pretrained"),
    ),
    Case(
        "the weights are cut off",
        folder(truncated),
        ("cannot be loaded", "incomplete metadata", "save_pretrained"),
    ),
    Case(
        "a layer is missing from the weights",
        folder(lambda world: with_weights(world, lambda weights: weights.pop(LAYER))),
        (f"{LAYER} missing", "would begin as random numbers", "written whole"),
    ),
    Case(
        "weights have another shape",
        folder(
            lambda world: with_weights(world, lambda weights: weights.update({EMBED: torch.zeros(99, 16)}))
        ),
        (f"{EMBED} has (99, 16) in the file, (320, 16) in the model", "written whole"),
    ),
    Case("the weights are a pickle", folder(pickled), ("pytorch_model.bin is a pickle", "save_file")),
    Case("a model brings code", folder(with_code), ("brings code of its own", "trust_remote_code: true")),
    Case("a reward model has no reward", with_outputs(1), ("score.weight missing", "random numbers")),
    Case("a reward model has three outputs", with_outputs(3), ("has 3 outputs", "give a model with one")),
    Case(
        "a factory fails",
        factory("failing"),
        ("ValueError('no such disk')", "a function without arguments that returns a module"),
    ),
    Case(
        "a factory is not there",
        factory("falling"),
        ("falling", "file.py:name of a function without arguments"),
    ),
    Case("a factory gives a number", factory("number"), ("gave int", "nn.Module")),
]

COMPUTED = [
    Case(
        "logits are of the last position alone",
        factory("one_position"),
        ("(4, 256)", "'vocabulary'", "Wrap it"),
        late=True,
    ),
    Case(
        "a model returns a dict",
        factory("no_tensor"),
        ("dict", "Wrap it in a module that returns logits"),
        late=True,
    ),
    Case(
        "a model reads fewer positions than it is given",
        factory("positions", "own"),
        ("index out of range", "max_seq_len"),
        late=True,
    ),
    Case(
        "a model knows fewer tokens than the codec",
        factory("small_vocabulary"),
        ("121", "num_tokens"),
        late=True,
    ),
    Case(
        "logits are not numbers, in training",
        factory("no_number"),
        ("step 1", "not finite", "the learning rate (0.01)"),
        StopRun,
        late=True,
    ),
    Case(
        "logits are not numbers, in sampling",
        factory("no_number", "own"),
        ("largest logit is nan", "at fault"),
        GenerationError,
        late=True,
    ),
    Case(
        "logits are infinite, in sampling",
        factory("infinite", "text"),
        ("largest logit is inf", "at fault"),
        GenerationError,
        late=True,
    ),
    Case(
        "all parameters are frozen",
        factory("frozen"),
        ("no parameter", "requires_grad_(True)"),
        TrainingError,
        late=True,
    ),
    Case(
        "a model is random in evaluation mode",
        factory("random_in_evaluation", "given"),
        ("random in evaluation mode", "module.training"),
        TrainingError,
        late=True,
    ),
]

CASES = [*LOADED, *COMPUTED]


@cases(CASES)
def test_a_wrong_model_is_refused_in_words_and_nothing_is_lost(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_code_that_a_model_brings_is_run_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "copies"))
    monkeypatch.syspath_prepend(str(tmp_path / "copies"))
    world = World(tmp_path)
    plan = world.plan(stage(SEED, data="gone.jsonl"), model=str(with_code(world)))
    with pytest.raises(ConfigError, match="brings code of its own"):
        run(plan, reporter=QUIET)
    assert not list(tmp_path.rglob("RAN"))
    with pytest.raises(ConfigError, match="no data file"):  # the next thing that is wrong with the plan
        run({**plan, "trust_remote_code": True}, reporter=QUIET)
    assert list(tmp_path.rglob("RAN")), "the premise: code that is run leaves this file"


def test_a_model_that_ties_its_weights_is_whole(tmp_path: Path) -> None:
    """Its file holds the shared tensor once; that is none missing."""
    import transformers

    world = World(tmp_path)
    path = hub_folder(world)
    config = transformers.AutoConfig.from_pretrained(path)
    config.tie_word_embeddings = True
    shutil.rmtree(world.given / "model")
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    models.byte_level_tokenizer(None).save_pretrained(path)
    policy, codec = load_policy(str(path))
    assert policy.vocab_size == 320
    assert codec is not None
