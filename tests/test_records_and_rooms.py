"""The records hold, and no room knows what stands below it (DESIGN, section 2)."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import self_rewarding_lm_pytorch
from self_rewarding_lm_pytorch import errors, records
from self_rewarding_lm_pytorch.errors import ConfigError
from self_rewarding_lm_pytorch.records import PreferencePair, SequenceBatch
from self_rewarding_lm_pytorch.registry import Registry
from self_rewarding_lm_pytorch.text import example_from_parts

PACKAGE = Path(self_rewarding_lm_pytorch.__file__).parent
NAME = "self_rewarding_lm_pytorch"
ROOMS = [
    "errors",
    "records",
    "registry",
    "objects",
    "seeds",
    "processes",
    "interrupts",
    "alarms",
    "progress",
    "callbacks",
    "text",
    "losses",
    "models",
    "generation",
    "judges",
    "data",
    "run_folder",
    "preferences",
    "prepare",
    "training",
    "evaluation",
    "stages",
    "plans",
    "config",
    "model_card",
    "trackers",
    "pipeline",
    "parts",
    "overview",
    "published",
    "demo",
    "report",
    "cli",
    "__main__",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    inside = path.relative_to(PACKAGE).parts
    return inside[0].removesuffix(".py")


def imported(path: Path, *, lazy: bool = True) -> set[str]:
    """Modules a file imports; without `lazy`, those alone that importing the file itself imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in inner and not lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(names: set[str]) -> set[str]:
    """The rooms among imported modules."""
    return {n.split(".")[1] for n in names if n.startswith(f"{NAME}.")} & set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rows_above(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # the public names: it may know all
    assert room(path) in ROOMS, f"{path} stands in no known room; put it into DESIGN section 2 and here"
    place = ROOMS.index(room(path))
    below = {name for name in own(imported(path)) if ROOMS.index(name) > place}
    assert not below, f"{path.relative_to(PACKAGE)} imports from {below}, which stand below it"


def test_losses_know_torch_records_errors_and_the_registry_only() -> None:
    for path in (PACKAGE / "losses").glob("*.py"):
        assert own(imported(path)) <= {"losses", "records", "registry", "objects", "errors"}
        others = {name.split(".")[0] for name in imported(path)} - {NAME}
        assert others <= {"torch", "collections", "dataclasses", "types", "typing", "__future__", "math"}


def test_training_knows_no_judge_and_no_generator() -> None:
    for path in (PACKAGE / "training").glob("*.py"):
        assert not own(imported(path)) & {"judges", "generation", "preferences"}


@pytest.mark.parametrize(
    ("library", "places"),
    [
        (
            "transformers",
            {
                "models/adapters.py",
                "models/huggingface.py",
                "models/huggingface_caches.py",
                "models/huggingface_outline.py",
                "models/huggingface_tokenizer.py",
                "models/load.py",
            },
        ),
        ("peft", {"models/huggingface_adapters.py", "models/huggingface_planned_adapter.py"}),
        ("x_transformers", {"models/x_transformers.py", "models/x_transformers_caches.py", "models/load.py"}),
    ],
)
def test_model_libraries_are_imported_in_their_files_alone(library: str, places: set[str]) -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert found <= places, f"{sorted(found - places)} import {library}; models/ alone knows families"
    assert found


def test_loading_imports_model_libraries_only_when_a_model_needs_them() -> None:
    names = {name.split(".")[0] for name in imported(PACKAGE / "models" / "load.py", lazy=False)}
    assert not names & {"transformers", "x_transformers", "peft"}


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "x_transformers", "peft", "pyarrow", "datasets", "accelerate"]
    code = f"import sys, {NAME}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_can_be_had() -> None:
    names = getattr(self_rewarding_lm_pytorch, "__all__", [])
    for name in names:
        assert getattr(self_rewarding_lm_pytorch, name) is not None
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "record", [v for v in vars(records).values() if isinstance(v, type) and dataclasses.is_dataclass(v)]
)
def test_every_record_is_frozen(record: type) -> None:
    assert record.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__dict__" not in dir(record), "slots: a misspelt field cannot be set"


def test_every_error_is_of_one_family() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type)]
    assert len(kinds) > 5
    assert all(issubclass(kind, errors.SelfRewardingError) for kind in kinds)


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin"), [(4.5, 2.0, 2.5), (None, 2.0, None), (4.5, None, None), (0.0, 0.0, 0.0)]
)
def test_a_margin_needs_both_scores(
    chosen: float | None, rejected: float | None, margin: float | None
) -> None:
    pair = PreferencePair(0, 0, "p", "c", "r", (1,), (2,), (3,), chosen_score=chosen, rejected_score=rejected)
    assert pair.margin == margin


def test_a_batch_counts_its_targets_and_moves_whole() -> None:
    example = example_from_parts((1, 2), (3, 4))
    batch = SequenceBatch(example.ids[None], example.is_target[None], torch.tensor([4]))
    assert batch.num_targets == 2
    moved = batch.to(torch.device("meta"))
    assert {moved.ids.device.type, moved.is_target.device.type, moved.lengths.device.type} == {"meta"}


def test_a_registry_imports_a_part_only_when_asked_and_lists_the_known() -> None:
    registry: Registry[type] = Registry("part", {"right": "fractions:Fraction", "gone": "no_such_module:X"})
    assert list(registry) == ["right", "gone"]
    assert "right" in registry
    assert "left" not in registry
    assert registry["right"].__name__ == "Fraction"
    with pytest.raises(ConfigError, match=r"unknown part 'rigth'; known: gone, right\. Did you mean 'right'"):
        registry["rigth"]
    with pytest.raises(ModuleNotFoundError):
        registry["gone"]
