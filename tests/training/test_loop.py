"""The loop on a real tiny model: learning, checkpoints that resume exactly, signals, distillation."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from m3_core.backbone import attend
from m3_core.errors import InputError, M3Error
from m3_core.model import M3Model
from m3_training.__main__ import app
from m3_training.config import BatchShape, DataConfig, Distil, FineTune, LoopConfig, TextConfig
from m3_training.distil import distil, projection
from m3_training.export import average, scale_sparse
from m3_training.finetune import START_WEIGHT, fine_tune, with_heads
from m3_training.loop import CHECKPOINT, Interrupted, Trainer, _groups, trainable

LOOP = LoopConfig(steps=10, learning_rate=2e-3, warmup_steps=2, dropout=0.1, checkpoint_every=5, log_every=1)
DATA = DataConfig(
    sources={"pairs.jsonl": 1.0},
    shapes=(BatchShape(passage_tokens=24, size=4),),
    query_tokens=12,
    neighbours=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, ...]) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"lang": "xx", "query": " ".join(text.split()[:3]), "positive": text} for text in texts]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [{"lang": "xx" if n % 2 else "yy", "text": text} for n, text in enumerate(texts)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def trainer(bert_folder: Path, data: Path, output: Path, loop: LoopConfig = LOOP) -> Trainer:
    model, tokenizer = M3Model.load(bert_folder)
    torch.manual_seed(loop.seed)
    return fine_tune(model, tokenizer, FineTune(data=DATA, loop=loop), data, output)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return M3Model.load(folder)[0].state_dict()


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_ten_steps_equal_five_and_five_resumed(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    whole = trainer(bert_folder, data, tmp_path / "whole").run()

    first = trainer(bert_folder, data, tmp_path / "halves")
    first._stop = True  # as after a signal: ends after the first step, with a checkpoint
    with pytest.raises(Interrupted, match="after step 1 of 10"):
        first.run()
    second = trainer(bert_folder, data, tmp_path / "halves")
    second.objective = StopAt(second, 5)
    with pytest.raises(Interrupted, match="after step 5"):
        second.run(resume=True)
    torch.manual_seed(99)  # resuming must not depend on the state of the process
    halves = trainer(bert_folder, data, tmp_path / "halves").run(resume=True)

    assert_equal(weights(whole), weights(halves))
    changed = [
        name for name, value in weights(bert_folder).items() if not torch.equal(value, weights(whole)[name])
    ]
    assert "sparse_linear.weight" in changed
    assert "backbone.encoder.layer.0.attention.self.query.weight" in changed


class StopAt:
    """Sends the process a signal in the middle of a step."""

    def __init__(self, trainer: Trainer, step: int, kind: signal.Signals = signal.SIGTERM) -> None:
        self.inner, self.step, self.kind = trainer.objective, step, kind

    def identity(self) -> str:
        return self.inner.identity()

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step + 1 == self.step:
            os.kill(os.getpid(), self.kind)
        return self.inner.loss(step)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_give_the_handlers_back(
    bert_folder: Path, data: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    before = signal.getsignal(kind)
    run = trainer(bert_folder, data, tmp_path)
    run.objective = StopAt(run, 3, kind)
    with pytest.raises(Interrupted, match="after step 3 of 10; go on with --resume"):
        run.run()
    assert signal.getsignal(kind) is before
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 3


def test_the_loss_falls_and_the_log_says_what_happened(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=30, dropout=0.0)
    trainer(bert_folder, data, tmp_path, loop).run()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 31))
    losses = [line["loss"] for line in log]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert log[0]["non_zero_passage"] > 1
    assert {"contrast_dense", "distil_sparse", "first_multi", "gradient_norm"} <= log[0].keys()


def test_a_failed_write_leaves_the_checkpoint_before_it(
    bert_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(bert_folder, data, tmp_path)
    run.run()
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full_disk(_state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        run.save()
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_runs_are_not_mixed_up(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="start without --resume"):
        trainer(bert_folder, data, tmp_path).run(resume=True)
    trainer(bert_folder, data, tmp_path).run()
    with pytest.raises(InputError, match="already holds a run; go on with --resume"):
        trainer(bert_folder, data, tmp_path).run()
    for change in ({"learning_rate": 1e-3}, {"seed": 1}, {"dropout": 0.0}):
        with pytest.raises(InputError, match="other data, options or losses"):
            trainer(bert_folder, data, tmp_path, replace(LOOP, **change)).run(resume=True)


def test_steps_may_change_before_the_decay_and_not_in_it(
    bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    loop = replace(LOOP, decay_steps=4)
    for stop, folder in ((4, tmp_path / "before"), (8, tmp_path / "in")):
        run = trainer(bert_folder, data, folder, loop)
        run.objective = StopAt(run, stop)
        with pytest.raises(Interrupted):
            run.run()
    longer = replace(loop, steps=12, decay_steps=2)
    trainer(bert_folder, data, tmp_path / "before", longer).run(resume=True)
    with pytest.raises(InputError, match="decay to 10 steps has begun"):
        trainer(bert_folder, data, tmp_path / "in", longer).run(resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    run = trainer(bert_folder, data, tmp_path)
    with torch.no_grad():
        run.model.backbone.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(M3Error, match="step 0 is nan"):
        run.run()


def test_heads_have_their_rate_and_embeddings_no_decay(bert_folder: Path) -> None:
    model = trainable(M3Model.load(bert_folder)[0], replace(LOOP, train_positions=False))
    loop = replace(LOOP, head_learning_rate=0.5, weight_decay=0.1)
    groups = {id(p): group for group in _groups(model, loop) for p in group["params"]}
    layer = model.backbone.encoder.layer[0].attention.self.query  # type: ignore[union-attr]
    assert groups[id(layer.weight)]["weight_decay"] == 0.1
    assert groups[id(layer.bias)]["weight_decay"] == 0.0
    assert groups[id(layer.weight)]["lr"] == LOOP.learning_rate
    assert groups[id(model.backbone.embeddings.word_embeddings.weight)]["weight_decay"] == 0.0
    assert model.sparse_linear is not None
    assert groups[id(model.sparse_linear.weight)]["lr"] == 0.5
    assert id(model.backbone.embeddings.position_embeddings.weight) not in groups


def test_fresh_heads_start_from_the_backbone(bert_folder: Path) -> None:
    model = M3Model.load(bert_folder)[0]
    model.sparse_linear = model.colbert_linear = None
    whole = with_heads(model)
    assert whole.sparse_linear is not None
    assert whole.colbert_linear is not None
    assert torch.equal(whole.colbert_linear.weight, torch.eye(32))
    assert whole.sparse_linear.bias.item() == pytest.approx(START_WEIGHT)
    assert_equal(model.backbone.state_dict(), whole.backbone.state_dict())


def test_existing_heads_are_kept(bert_folder: Path) -> None:
    model = M3Model.load(bert_folder)[0]
    assert_equal(model.state_dict(), with_heads(model).state_dict())


def test_attention_in_training_equals_attention_in_use() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths, heads = (3, 7, 7, 1), 4
    rows = [torch.randn(18, 32, generator=generator, dtype=torch.float64) for _ in range(3)]
    trained = [row.clone().requires_grad_() for row in rows]
    mixed = attend(trained[0], trained[1], trained[2], lengths, heads)
    torch.testing.assert_close(mixed.detach(), attend(*rows, lengths, heads), rtol=1e-10, atol=1e-12)

    one_by_one = [row.clone().requires_grad_() for row in rows]
    parts = zip(*(row.split(lengths) for row in one_by_one), strict=True)
    alone = []
    for q, k, v in parts:
        split = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
        query, key, value = split
        alone.append(((query @ key.mT / 8**0.5).softmax(-1) @ value).transpose(0, 1).flatten(1))
    wanted = torch.autograd.grad(torch.cat(alone).square().sum(), one_by_one)
    for gradient, expected in zip(torch.autograd.grad(mixed.square().sum(), trained), wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def student(bert_folder: Path) -> tuple[M3Model, M3Model]:
    """A teacher of width 32, and a student of width 16 whose embeddings are a projection of it."""
    torch.manual_seed(3)
    teacher = M3Model.load(bert_folder)[0]
    changes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    small = M3Model({**teacher.raw_config, **changes}, sparse=False)
    basis = torch.linalg.qr(torch.randn(32, 16)).Q
    with torch.no_grad():
        table = teacher.backbone.embeddings.word_embeddings.weight
        small.backbone.embeddings.word_embeddings.weight.copy_(table @ basis)
    return small, teacher


def test_the_projection_is_read_off_the_embeddings(student: tuple[M3Model, M3Model]) -> None:
    small, teacher = student
    matrix = projection(teacher, small)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(16), rtol=0, atol=1e-4)
    with torch.no_grad():
        small.backbone.embeddings.word_embeddings.weight[5, 3] += 0.5
    with pytest.raises(InputError, match="no projection of this teacher"):
        projection(teacher, small)


def test_distillation_brings_the_student_nearer(
    student: tuple[M3Model, M3Model], bert_folder: Path, data: Path, tmp_path: Path
) -> None:
    small, teacher = student
    tokenizer = M3Model.load(bert_folder)[1]
    recipe = Distil(
        loop=LoopConfig(steps=30, learning_rate=3e-3, warmup_steps=3, log_every=1),
        texts=TextConfig(tokens=16, batch_tokens=80, favoured=("yy",)),
    )
    folder = distil(small, teacher, tokenizer, recipe, data, tmp_path).run()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["layer_2"] < 0.7 * log[0]["layer_2"]
    model, _ = M3Model.load(folder)
    assert model.config.hidden_size == 16
    assert len(model.representations) == 1  # distillation makes no heads


def test_favoured_languages_must_exist(
    data: Path, bert_folder: Path, student: tuple[M3Model, M3Model]
) -> None:
    recipe = Distil(loop=LOOP, texts=TextConfig(favoured=("zz",)))
    with pytest.raises(InputError, match=r"texts\.favoured: .* no texts in zz"):
        distil(*student, M3Model.load(bert_folder)[1], recipe, data, data / "x")


RECIPE = """
kind: train
data:
  sources: {pairs.jsonl: 1}
  shapes: [{passage_tokens: 24, size: 4}]
loop: {steps: 2, learning_rate: 1e-3}
"""


def test_the_command_line_trains_and_exports(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    options = ["--model", str(bert_folder), "--data", str(data), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["train", str(recipe), *options])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(
        app, ["export", str(tmp_path / "run/model"), "--output", str(tmp_path / "half")]
    )
    assert result.exit_code == 0, result.output
    whole, half = (tmp_path / name / "model.safetensors" for name in ("run/model", "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    wrong = CliRunner().invoke(app, ["distil", str(recipe), "--teacher", str(bert_folder), *options])
    assert isinstance(wrong.exception, InputError)
    assert "is a recipe for train" in str(wrong.exception)


def test_export_averages_and_scales(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    last = trainer(bert_folder, data, tmp_path / "run").run()
    arguments = [
        "export",
        str(bert_folder),
        str(last),
        "--output",
        str(tmp_path / "out"),
        "--sparse-scale",
        "2",
    ]
    result = CliRunner().invoke(app, [*arguments, "--dtype", "float32"])
    assert result.exit_code == 0, result.output
    first, second, made = weights(bert_folder), weights(last), weights(tmp_path / "out")
    for name, value in made.items():
        factor = 2 if name.startswith("sparse_linear") else 1
        torch.testing.assert_close(value, factor * (first[name] + second[name]) / 2, rtol=1e-6, atol=1e-7)


def test_only_models_of_a_kind_are_averaged(student: tuple[M3Model, M3Model]) -> None:
    with pytest.raises(InputError, match="only models of the same size"):
        average(student)
    with pytest.raises(InputError, match="no sparse head"):
        scale_sparse(student[0], 2.0)
    with pytest.raises(InputError, match="above 0, not 0"):
        scale_sparse(student[1], 0)
