"""The adapter that a plan asks for: made from its seed, carried or merged, found again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from typer.testing import CliRunner

from self_rewarding_lm_pytorch.cli.main import app
from self_rewarding_lm_pytorch.config import load_plan
from self_rewarding_lm_pytorch.errors import CheckpointError, ConfigError
from self_rewarding_lm_pytorch.models.adapters import base_of, needs, with_new_adapter
from self_rewarding_lm_pytorch.models.huggingface import HuggingFacePolicy
from self_rewarding_lm_pytorch.models.load import load_policy, policy_for
from self_rewarding_lm_pytorch.pipeline import run
from tests.helpers import byte_codec, recurrent, x_transformer
from tests.models.test_adapters import same, stirred, tensors
from tests.stages import worlds
from tests.stages.worlds import QUIET, weights, without_seconds
from tests.test_resume import Deadly, die, in_a_fork, needs_fork
from tests.test_text_huggingface import byte_level_tokenizer

peft = pytest.importorskip("peft")

IDS = torch.arange(24)[None] * 7 % 256
LORA = {"r": 2, "alpha": 8, "target_modules": ["q_proj", "down_proj"]}
KINDS: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "all linear layers": {"r": 2},
    "rank-stabilised": {**LORA, "use_rslora": True},
    "dora": {**LORA, "use_dora": True},
    "saved modules": {**LORA, "modules_to_save": ["lm_head", "norm"]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama of a few thousand weights, as transformers saves it."""
    place = tmp_path / "base"
    worlds.hugging_face().save_pretrained(place)
    byte_level_tokenizer(None).save_pretrained(place)
    return place


def plan(place: Path, model: Any, *names: str, **adapter: Any) -> dict[str, Any]:
    names = names or ("given", "text")
    return worlds.plan(place, *names, model=model, tokenizer=byte_codec(), adapter={**LORA, **adapter})


def planned(*, seed: int = 0, is_merged: bool = False, model: Any = None, **settings: Any) -> Any:
    written = load_plan(worlds.plan(Path("r"), "given", adapter={**LORA, **settings})).adapter
    return with_new_adapter(
        policy_for(model or worlds.hugging_face()),
        written.peft_arguments(),
        seed=seed,
        is_merged=is_merged,
        base=None,
    )


def logits(policy: Any) -> Tensor:
    with policy.evaluating():
        found: Tensor = policy.logits(IDS)
        return found


def checkpoint(place: Path, number: int) -> Path:
    (found,) = place.glob(f"stages/{number:02d}-*/checkpoint")
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_new_adapter_changes_nothing_and_alone_trains(name: str) -> None:
    policy = planned(**KINDS[name])
    assert torch.allclose(logits(policy), logits(policy_for(worlds.hugging_face())), atol=1e-5)
    trained = {name for name, p in policy.module.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in each or ".modules_to_save." in each for each in trained)
    assert any(".lora_A." in each for each in trained)


def test_auto_adapts_every_linear_layer_but_the_output_layer() -> None:
    trained = [n for n, p in planned(target_modules="auto").module.named_parameters() if p.requires_grad]
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_new_adapter_is_a_function_of_the_seed_and_draws_from_nobody_elses_numbers() -> None:
    models = [worlds.hugging_face() for _ in range(3)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = planned(model=models[0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert same(tensors(planned(model=models[1]).module), tensors(one.module))
    assert not same(tensors(planned(model=models[2], seed=1).module), tensors(one.module))


def test_merged_weights_are_the_formulas(tmp_path: Path) -> None:
    """W + alpha / r B A (arXiv 2106.09685, section 4.1), and alpha / sqrt(r) where rank-stabilised."""
    for changes, scale in (({}, 8 / 2), ({"use_rslora": True}, 8 / 2**0.5)):
        policy = stirred(planned(is_merged=True, **changes))
        own = dict(policy.module.named_parameters())
        name = "base_model.model.model.layers.0.self_attn.q_proj"
        a, b = own[f"{name}.lora_A.default.weight"], own[f"{name}.lora_B.default.weight"]
        expected = own[f"{name}.base_layer.weight"] + scale * b @ a
        place = tmp_path / str(scale)
        place.mkdir()
        policy.save(place)
        found = transformers.AutoModelForCausalLM.from_pretrained(place)
        assert torch.allclose(found.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_a_merged_checkpoint_is_a_whole_model_that_computes_the_same(name: str, tmp_path: Path) -> None:
    policy = stirred(planned(is_merged=True, **KINDS[name]))
    before, weights_before = logits(policy), tensors(policy.module)
    policy.save(tmp_path)
    assert same(tensors(policy.module), weights_before), "saving changes nothing"
    assert not (tmp_path / "adapter_config.json").exists()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(loaded(IDS).logits, before, atol=1e-4)  # float32, logits up to some tens
    policy.restore(tmp_path)
    with torch.no_grad():
        assert torch.allclose(logits(policy), loaded(IDS).logits, atol=1e-5)
    fresh = planned(**KINDS[name])
    assert all(
        torch.equal(tensor, tensors(fresh.module)[key])
        for key, tensor in tensors(policy.module).items()
        if ".lora_A." in key or ".lora_B." in key
    ), "the next stage begins with a new adapter"
    assert policy.adapter_fault() == ""
    twin = policy.copy()
    stirred(policy)
    twin.restore(tmp_path)
    assert not any(p.requires_grad for p in twin.module.parameters()), "a frozen copy stays frozen"


@pytest.mark.parametrize("way", ["carried", "merged"])
def test_a_stage_that_learns_nothing_leaves_the_model_as_the_one_before(way: str, tmp_path: Path) -> None:
    settings = plan(tmp_path, worlds.hugging_face(), "given", "given", between_stages=way)
    settings["stages"][1] |= {"name": "idle", "learning_rate": 0.0}
    run(settings, reporter=QUIET)
    first, second = (load_policy_of(tmp_path, number) for number in (1, 2))
    assert torch.equal(logits(first), logits(second))
    assert not torch.allclose(logits(first), logits(policy_for(worlds.hugging_face())), atol=1e-4)
    names = {path.name for path in checkpoint(tmp_path, 2).iterdir()}
    assert ("adapter_model.safetensors" in names) == (way == "carried")
    assert ("model.safetensors" in names) == (way == "merged")


def load_policy_of(place: Path, number: int) -> Any:
    """A checkpoint as anybody would load it, without the library where it is a whole model."""
    found = checkpoint(place, number)
    if (found / "adapter_config.json").exists():
        base = transformers.AutoModelForCausalLM.from_pretrained(base_of(found))
        return policy_for(peft.PeftModel.from_pretrained(base, found).eval())
    return policy_for(transformers.AutoModelForCausalLM.from_pretrained(found).eval())


@pytest.mark.parametrize("way", ["carried", "merged"])
def test_a_module_from_python_computes_what_its_last_checkpoint_does(way: str, tmp_path: Path) -> None:
    """The run's first weights count, also where a later process builds its module with others."""
    settings = plan(tmp_path, worlds.hugging_face(), between_stages=way)
    run(settings, reporter=QUIET)
    last = logits(load_policy_of(tmp_path, 2))
    for module in (settings["model"], worlds.hugging_face(seed=7)):
        run({**settings, "model": module}, reporter=QUIET)  # finished: it gives the weights back
        with torch.no_grad():
            assert torch.allclose(module.eval()(IDS).logits, last, atol=1e-4)


def kill_while_writing() -> None:
    """The process dies when a checkpoint is written and not yet in its place."""
    from self_rewarding_lm_pytorch.models.huggingface_adapters import AdapterPolicy

    for kind in (HuggingFacePolicy, AdapterPolicy):
        written = kind.save

        def save(self: Any, place: Path, written: Any = written) -> None:
            written(self, place)
            if ".checkpoint.tmp" in str(place):
                die()

        kind.save = save  # type: ignore[method-assign]


def run_and_die(settings: dict[str, Any], place: str) -> None:
    if place == "while writing":
        kill_while_writing()
        run(settings, reporter=QUIET)
    elif place == "before restoring":
        run(settings, reporter=QUIET, after_stage=lambda *_: die())
    else:
        label, _, after = place.partition("/")
        run(settings, reporter=Deadly(label, int(after or 1)))


PLACES = {
    "carried": ("while writing", "before restoring", "training/3"),
    "merged": ("training/1", "while writing", "before restoring", "shard 2: answers", "training/3"),
}


@needs_fork
@pytest.mark.parametrize("way", ["carried", "merged"])
def test_a_run_killed_anywhere_ends_bit_for_bit_as_if_it_had_not_been(
    way: str, folder: Path, tmp_path: Path
) -> None:
    whole = run(plan(tmp_path / "whole", str(folder), between_stages=way), reporter=QUIET)
    expected = weights(tmp_path / "whole")
    assert len(expected) == 2
    for number, place in enumerate(PLACES[way]):
        there = tmp_path / str(number)
        settings = plan(there, str(folder), between_stages=way) | {"save_every_seconds": 0}
        assert in_a_fork(lambda settings=settings, place=place: run_and_die(settings, place)), place
        summary = run(settings, reporter=QUIET)
        assert weights(there) == expected, place
        assert without_seconds(summary) == without_seconds(whole)


@needs_fork
@pytest.mark.parametrize(
    ("way", "changes"), [("carried", {}), ("merged", {"use_dora": True}), ("merged", {"r": 3})]
)
def test_a_killed_run_of_a_module_goes_on_from_its_first_weights(
    way: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    run(plan(tmp_path / "whole", worlds.hugging_face(), between_stages=way, **changes), reporter=QUIET)
    settings = plan(tmp_path / "broken", worlds.hugging_face(), between_stages=way, **changes)
    assert in_a_fork(lambda: run_and_die(settings, "training/1"))
    run({**settings, "model": worlds.hugging_face(seed=7)}, reporter=QUIET)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_the_same_module_can_be_given_again_after_an_interruption(tmp_path: Path) -> None:
    run(plan(tmp_path / "whole", worlds.hugging_face(), between_stages="carried"), reporter=QUIET)
    settings = plan(tmp_path / "broken", worlds.hugging_face(), between_stages="carried")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, reporter=QUIET, after_stage=stop)
    run(settings, reporter=QUIET)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


@pytest.mark.parametrize("way", ["carried", "merged"])
def test_another_run_of_a_module_begins_from_what_it_has_learned(way: str, tmp_path: Path) -> None:
    module = worlds.hugging_face()
    run(plan(tmp_path / "one", module, "given", between_stages=way), reporter=QUIET)
    idle = plan(tmp_path / "two", module, "given", between_stages=way)
    idle["stages"][0]["learning_rate"] = 0.0
    run(idle, reporter=QUIET)
    one, two = (logits(load_policy_of(tmp_path / name, 1)) for name in ("one", "two"))
    assert torch.allclose(one, two, atol=1e-4)
    assert not torch.allclose(one, logits(policy_for(worlds.hugging_face())), atol=1e-3)


def test_adapter_off_is_any_stages_start_where_adapters_are_merged_and_the_first_ones_otherwise(
    tmp_path: Path,
) -> None:
    def settings(way: str) -> dict[str, Any]:
        made = plan(tmp_path / way, worlds.hugging_face(), between_stages=way)
        for stage in made["stages"]:
            stage["train"] = {**stage.get("train", {}), "reference": "adapter_off"}
        return made

    run(settings("merged"), reporter=QUIET)
    usual = plan(tmp_path / "usual", worlds.hugging_face(), between_stages="merged")
    run(usual, reporter=QUIET)
    for number in (1, 2):
        one, other = (logits(load_policy_of(tmp_path / name, number)) for name in ("merged", "usual"))
        assert torch.allclose(one, other, atol=1e-3), "it is the policy at stage start"
    with pytest.raises(ConfigError, match="adapter_off is the model without its adapter"):
        run(settings("carried"), reporter=QUIET)


def test_a_run_goes_on_from_an_adapters_folder_without_naming_its_base(folder: Path, tmp_path: Path) -> None:
    run(plan(tmp_path / "one", str(folder), "given"), reporter=QUIET)
    first = checkpoint(tmp_path / "one", 1)
    assert json.loads((first / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    given, codec = load_policy(str(first))
    assert codec is not None
    with torch.no_grad():
        whole = peft.PeftModel.from_pretrained(worlds.hugging_face(), first).eval()(IDS).logits
        assert torch.equal(logits(given), whole)
    settings = worlds.plan(tmp_path / "two", "given", model=str(first), tokenizer=byte_codec())
    settings["stages"][0]["learning_rate"] = 0.0
    run(settings, reporter=QUIET)
    assert weights(tmp_path / "two").popitem()[1] == weights(tmp_path / "one").popitem()[1]
    with pytest.raises(ConfigError, match=r"has an adapter already.*leave `adapter` out"):
        run(plan(tmp_path / "three", str(first), "given"), reporter=QUIET)


def factory() -> Any:
    return worlds.hugging_face()


def test_an_adapter_of_a_factorys_model_is_found_through_the_factory(tmp_path: Path) -> None:
    name = f"{__name__}:factory"
    run(plan(tmp_path, name, "given"), reporter=QUIET)
    place = checkpoint(tmp_path, 1)
    assert base_of(place) == name
    own = policy_for(peft.PeftModel.from_pretrained(worlds.hugging_face(), place).eval())
    assert torch.equal(logits(load_policy(str(place))[0]), logits(own))


def test_a_base_that_changed_under_an_adapter_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    adapter = adapter_folder(tmp_path / "lora", folder)
    settings = worlds.plan(tmp_path / "r", "given", "text", model=str(adapter), tokenizer=byte_codec())

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, reporter=QUIET, after_stage=stop)
    worlds.hugging_face(seed=5).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"model .*base, model\.safetensors: what is in it is not"):
        run(settings, reporter=QUIET)


def adapter_folder(place: Path, base: Any) -> Path:
    policy = stirred(planned())
    policy.base = base
    place.mkdir(parents=True)
    policy.save(place)
    return place


def test_a_base_is_looked_for_from_the_adapters_folder_and_then_from_where_one_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = adapter_folder(tmp_path / "runs" / "lora", tmp_path / "base")
    assert json.loads((beside / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../base"
    expected = logits(load_policy(str(beside))[0])
    (tmp_path / "moved").mkdir()
    (tmp_path / "runs").rename(tmp_path / "moved" / "runs")
    folder.rename(tmp_path / "moved" / "base")
    assert torch.equal(logits(load_policy(str(tmp_path / "moved" / "runs" / "lora"))[0]), expected)
    monkeypatch.chdir(tmp_path)
    here = adapter_folder(tmp_path / "other", "moved/base")
    assert torch.equal(logits(load_policy(str(here))[0]), expected)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("nowhere/at/all", r"belongs to the model in 'nowhere/at/all', which is not there"),
        ("./gone", "which is not there"),
        (None, r"does not say of which model \(base_model_name_or_path="),
    ],
)
def test_a_base_that_is_not_there_is_named_with_what_to_do(base: Any, said: str, tmp_path: Path) -> None:
    place = adapter_folder(tmp_path / "lora", base)
    with pytest.raises(ConfigError, match=said):
        load_policy(str(place))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    config.hidden_size, config.num_hidden_layers = 32, 2
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ConfigError, match="cannot be put on its model"):
        load_policy(str(adapter_folder(tmp_path / "lora", str(folder))))


def test_saving_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)
    monkeypatch.setattr("socket.socket.connect", asked)
    policy = planned()
    policy.base = "someone/a-model-nobody-has"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.save(tmp_path)
    assert base_of(tmp_path) == "someone/a-model-nobody-has", "a hub name stays one"


def test_several_training_stages_must_say_what_becomes_of_the_adapter() -> None:
    with pytest.raises(ConfigError, match=r"2 stages \(given, text\).*between_stages: carried\} or merged"):
        load_plan(plan(Path("r"), "m"))
    assert load_plan(plan(Path("r"), "m", "given")).adapter.between_stages is None
    with pytest.raises(ConfigError, match=r"between_stages.*merge.*unquantized"):
        load_plan(plan(Path("r"), "m", quantize="4bit", between_stages="merged"))
    with pytest.raises(ConfigError, match=r"unknown key 'adapter\.rank'"):
        load_plan(plan(Path("r"), "m", "given", rank=3))


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "x-transformers": (lambda: x_transformer().module, {}, "model of the x-transformers? family"),
    "plain": (lambda: recurrent().module, {}, "model of the plain family"),
    "an adapted one": (
        lambda: peft.get_peft_model(worlds.hugging_face(), peft.LoraConfig(target_modules=["q_proj"])),
        {},
        "has an adapter already",
    ),
    "a misspelt layer": (
        worlds.hugging_face,
        {"target_modules": ["q_proj", "c_attn"]},
        r"target_modules names 'c_attn', which a LlamaForCausalLM does not have; .*q_proj",
    ),
    "a misspelt module": (
        worlds.hugging_face,
        {"modules_to_save": ["head"]},
        r"modules_to_save names 'head'.*lm_head",
    ),
    "quantized after the fact": (worlds.hugging_face, {"quantize": "4bit"}, "is done as a model is read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_this_model_cannot_have_is_refused(name: str, tmp_path: Path) -> None:
    make, adapter, said = REFUSED[name]
    with pytest.raises(ConfigError, match=said):
        run(plan(tmp_path, make(), "given", **adapter), reporter=QUIET)


def test_a_tied_embedding_is_not_merged_and_what_else_trains_is() -> None:
    def tied() -> Any:
        config = worlds.hugging_face().config
        config.tie_word_embeddings = True
        return transformers.LlamaForCausalLM(config)

    with pytest.raises(ConfigError, match="input and its output alike"):
        planned(model=tied(), is_merged=True, target_modules=["embed_tokens", "q_proj"])
    planned(model=tied(), is_merged=True)


def test_a_missing_library_is_named_with_the_command() -> None:
    with pytest.raises(ConfigError, match="pip install no_such_package"):
        needs("no_such_package", "adapter")


def test_the_merge_command_writes_what_transformers_loads(folder: Path, tmp_path: Path) -> None:
    adapter, out = adapter_folder(tmp_path / "lora", folder), tmp_path / "merged"
    expected = logits(load_policy(str(adapter))[0])
    done = CliRunner().invoke(app, ["merge", str(adapter), "--out", str(out)])
    assert done.exit_code == 0, done.output
    with torch.no_grad():
        found = transformers.AutoModelForCausalLM.from_pretrained(out).eval()(IDS).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(out)
    for source, target, said in (
        (adapter, out, "exists already"),
        (out, tmp_path / "new", "it is a whole model already"),
        (tmp_path, tmp_path / "new", "there is no adapter_config.json in it"),
    ):
        failed = CliRunner().invoke(app, ["merge", str(source), "--out", str(target)])
        assert failed.exit_code == 1
        assert said in str(failed.exception or failed.output)


def test_a_whole_models_folder_of_other_sizes_is_refused_before_anything_changes(tmp_path: Path) -> None:
    config = worlds.hugging_face().config
    config.num_hidden_layers = 2
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    policy = planned(is_merged=True)
    before = tensors(policy.module)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        policy.restore(tmp_path)
    assert same(tensors(policy.module), before)
