"""What a name means: a folder, a run, a run's stage, a checkpoint, a factory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.policy import Policy
from self_rewarding_lm_pytorch.parts.models import accelerator_on, named_model
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec
from tests.parts.worlds import QUIET
from tests.stages.worlds import STAGES, plain


def weights(policy: Policy) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in policy.module.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loaded(name: str, **options: Any) -> dict[str, Any]:
    return weights(named_model(name, **options).load()[0])


def test_a_run_is_its_last_checkpoint_and_a_stage_its_own(there: Path, finished: Path) -> None:
    last, first = loaded("runs/tiny"), loaded("runs/tiny:seed")
    assert same(last, loaded("runs/tiny:outside"))
    assert same(last, loaded("runs/tiny/stages/03-outside"))
    assert same(last, loaded("runs/tiny/stages/03-outside/checkpoint"))
    assert not same(last, first)
    assert same(loaded("runs/tiny:initial"), loaded("tiny", dtype="auto"))
    assert next(iter(first.values())).dtype == torch.float64, "as the run's plan says"
    assert next(iter(loaded("runs/tiny", dtype="float32").values())).dtype == torch.float32


def test_a_copied_checkpoint_stands_alone(there: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "stages/03-outside/checkpoint", tmp_path / "copy")
    assert same(loaded(str(tmp_path / "copy"), dtype="auto"), loaded("runs/tiny"))


def test_what_a_run_does_not_have_is_said_with_what_it_has(there: Path, finished: Path) -> None:
    known = "models of runs/tiny that are there: initial, seed, own, outside"
    with pytest.raises(ConfigError, match=f"no finished stage is called so; {known}"):
        named_model("runs/tiny:second")


def test_an_altered_checkpoint_is_not_loaded(there: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    file = next((tmp_path / "run/stages/03-outside/checkpoint").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="was altered"):
        named_model(str(tmp_path / "run")).load()


def test_a_run_that_has_not_come_to_a_checkpoint_says_so(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    for stage in manifest["stages"]:
        stage["state"] = "pending"
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="without a finished checkpoint yet"):
        named_model(str(tmp_path / "run"))


@pytest.mark.parametrize("content", ["{", "{}", '{"stages": [{"name": 1}]}'])
def test_a_run_that_cannot_be_read_says_so(content: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/manifest.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        named_model(str(tmp_path / "run"))


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no model"):
        named_model(str(tmp_path))


def test_weights_alone_go_over_what_the_plan_or_a_factory_builds(tmp_path: Path) -> None:
    stage = {"name": "seed", **STAGES["seed"]}
    factory = "tests.stages.worlds:factory"
    run({"model": factory, "run": tmp_path / "named", "stages": [stage]}, reporter=QUIET)
    run(
        {"model": plain(), "tokenizer": byte_codec(), "run": tmp_path / "object", "stages": [stage]},
        reporter=QUIET,
    )
    trained = loaded(str(tmp_path / "named"))
    assert not same(trained, loaded(factory))
    assert same(trained, loaded(str(tmp_path / "object"), factory=factory))
    assert same(loaded(f"{tmp_path / 'object'}:initial", factory=factory), loaded(factory))
    with pytest.raises(ConfigError, match="holds weights alone"):
        named_model(str(tmp_path / "object"))


def test_an_adapter_of_a_run_is_put_on_its_base(there: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    stage = {"name": "seed", **STAGES["seed"]}
    plan = {"model": str(there / "tiny"), "run": tmp_path / "run", "stages": [stage], "adapter": {"r": 2}}
    run(plan, reporter=QUIET)
    policy, codec = named_model(str(tmp_path / "run")).load()
    bare, _ = named_model(str(there / "tiny")).load()
    ids = torch.tensor([codec.prompt_ids("q0?")])
    with torch.no_grad():
        change = (policy.logits(ids) - bare.logits(ids)).abs().max()
    assert type(policy) is not type(bare)
    assert change > 1e-4


def test_the_chat_of_a_plan_goes_with_its_checkpoints(there: Path, tmp_path: Path) -> None:
    stage = {"name": "seed", **STAGES["seed"]}
    plan = {"model": str(there / "tiny"), "run": tmp_path / "run", "stages": [stage]}
    run({**plan, "chat": {"system": "be brief", "template": "transcript"}}, reporter=QUIET)
    named = named_model(str(tmp_path / "run"))
    _, codec = named.load()
    assert "be brief" in codec.decode(codec.prompt_ids("why?"))
    assert named.load_codec()[0].prompt_ids("why?") == codec.prompt_ids("why?")


def test_the_codec_alone_is_that_of_the_whole_model(there: Path, finished: Path) -> None:
    for name in ("tiny", "runs/tiny:own", "tests.stages.worlds:factory"):
        named = named_model(name)
        (policy, whole), (alone, context) = named.load(), named.load_codec()
        assert alone.eos_ids == whole.eos_ids
        assert alone.prompt_ids("what?") == whole.prompt_ids("what?")
        assert context == policy.max_length


def test_a_model_without_a_tokenizer_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent_model.py").write_text("from tests.stages.worlds import plain as make\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="brings no tokenizer"):
        named_model("silent_model:make").load()
    with pytest.raises(ConfigError, match=r"tokenizer of .*gone' cannot be loaded"):
        named_model("./gone").load_codec()


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="cuda"):
        accelerator_on("cuda")


def test_identities_differ_by_weights_and_not_by_place(there: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(there / "tiny", tmp_path / "copy")
    identities = []
    for name in ("tiny", str(tmp_path / "copy"), "runs/tiny:seed"):
        named = named_model(name, dtype="auto")
        identities.append(named.identity(named.load()[0]))
    assert identities[0] == identities[1] != identities[2]
    assert re.search("[0-9a-f]{64}", json.dumps(identities[0]))
