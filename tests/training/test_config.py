"""Recipes: all of them load; mistakes are refused and named."""

from pathlib import Path

import pytest

from m3_core.errors import InputError
from m3_training.config import (
    BatchShape,
    DataConfig,
    Distil,
    FineTune,
    LoopConfig,
    LossConfig,
    PerMode,
    load_recipe,
)

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert isinstance(load_recipe(path), FineTune | Distil)


def test_the_recipes_of_the_bundled_model_are_there() -> None:
    assert {"m3-tiny", "m3-tiny-distil"} <= {path.stem for path in RECIPES}


def test_values_arrive_with_their_types(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "kind: train\n"
        "data:\n  sources: {a.jsonl: 2}\n  shapes: [{passage_tokens: 64, size: 8}]\n"
        "loop: {steps: 10, learning_rate: 1e-4, decay_steps: 4}\n"
        "loss: {temperature: 1, scores: {sparse: 0.5}}\n"
    )
    recipe = load_recipe(path)
    assert recipe == FineTune(
        data=DataConfig(sources={"a.jsonl": 2.0}, shapes=(BatchShape(passage_tokens=64, size=8),)),
        loop=LoopConfig(steps=10, learning_rate=1e-4, decay_steps=4),
        loss=LossConfig(temperature=1.0, scores=PerMode(sparse=0.5)),
    )


LOOP = "loop: {steps: 10, learning_rate: 0.1}\n"
DATA = "data:\n  sources: {a: 1}\n  shapes: [{passage_tokens: 64, size: 8}]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kind: [", "not YAML"),
        ("loop: {}", "kind: train"),
        ("kind: other\n", "kind: train"),
        ("kind: train\n" + LOOP, "data"),
        ("kind: distil\nloop: {steps: 10}\n", "learning_rate"),
        ("kind: distil\nloop: {steps: 10, learning_rate: 0.1, stepz: 3}\n", "loop.stepz"),
        ("kind: distil\nloop: {steps: ten, learning_rate: 0.1}\n", "loop.steps must be int, not 'ten'"),
        ("kind: distil\nloop: {steps: true, learning_rate: 0.1}\n", "loop.steps must be int"),
        ("kind: distil\nloop: {steps: 1.5, learning_rate: 0.1}\n", "loop.steps must be int"),
        ("kind: distil\nloop: {steps: 10, learning_rate: 0.1, decay_steps: x}\n", "loop.decay_steps"),
        ("kind: distil\nloop: 3\n", "loop. must be a section"),
        ("kind: train\n" + LOOP + DATA.replace("{a: 1}", "[a]"), "data.sources must be a section"),
        ("kind: train\n" + LOOP + DATA.replace("{a: 1}", "{a: 0}"), "data.sources.a"),
        ("kind: train\n" + LOOP + DATA.replace("size: 8", "size: 1"), "size must be at least 2"),
        ("kind: train\n" + LOOP + DATA.replace("[{", "{").replace("}]", "}"), "data.shapes must be a list"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=str(path)) as caught:
        load_recipe(path)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "loop.steps"),
        ({"warmup_steps": 10}, "warmup_steps"),
        ({"warmup_steps": 5, "decay_steps": 6}, "decay_steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"head_learning_rate": -1.0}, "head_learning_rate"),
        ({"dtype": "float16"}, "float16"),
        ({"dropout": 1.0}, "dropout"),
        ({"clip": 0.0}, "clip"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
    ],
)
def test_the_loop_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoopConfig(**{"steps": 10, "learning_rate": 0.1, **options})  # type: ignore[arg-type]


def test_the_loss_refuses() -> None:
    nothing = PerMode(dense=0, sparse=0, multi=0, ensemble=0)
    with pytest.raises(InputError, match="temperature"):
        LossConfig(temperature=0)
    with pytest.raises(InputError, match="ensemble is the teacher"):
        LossConfig(distil=PerMode(ensemble=1))
    with pytest.raises(InputError, match="at least one weight"):
        LossConfig(contrast=nothing)
    with pytest.raises(InputError, match="sparse: a weight must not be negative"):
        PerMode(sparse=-1)
