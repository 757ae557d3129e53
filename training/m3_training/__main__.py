"""``python -m m3_training``: prepare, distil, train, evaluate."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from m3_core.errors import InputError, M3Error
from m3_core.extras import require

from .prepare.__main__ import app as prepare

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(prepare, name="prepare")
console = Console(stderr=True)

Folder = {"exists": True, "file_okay": False}
RecipeFile = Annotated[Path, typer.Argument(help="A YAML recipe; training/recipes holds some.", exists=True)]
Model = Annotated[Path, typer.Option(help="The model folder to start from.", **Folder)]
Data = Annotated[Path, typer.Option(help="The folder of the files that the recipe names.", **Folder)]
Output = Annotated[Path, typer.Option(help="The folder of the run: log, checkpoint, and at the end model/.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --output.")]


@app.callback()
def _commands() -> None:
    """Train and evaluate M3 models.

    The usual way: prepare backbone, data and shrink make what is learned from; distil repairs a projected backbone;
    train does the unified fine-tuning; evaluate measures nDCG@10 beside BM25. Every run can be stopped with Ctrl-C
    and resumed.
    """


@app.command()
def train(recipe: RecipeFile, model: Model, data: Data, output: Output, resume: Resume = False) -> None:
    """Unified fine-tuning of all three representations on question-passage pairs.

    Example: python -m m3_training train training/recipes/m3-tiny.yaml --model distilled/model --data pairs --output run
    """
    from m3_core.model import M3Model

    from .config import FineTune, load_recipe
    from .finetune import fine_tune

    require("yaml", extra="train")
    settings = load_recipe(recipe)
    if not isinstance(settings, FineTune):
        raise InputError(f"{recipe} is a recipe for distil, not for train")
    trainer = fine_tune(*M3Model.load(model), settings, data, output)
    console.print(f"wrote {trainer.run(resume=resume)}")


@app.command()
def distil(
    recipe: RecipeFile,
    model: Annotated[Path, typer.Option(help="The projected student (prepare shrink --hidden).", **Folder)],
    teacher: Annotated[Path, typer.Option(help="The backbone it was projected from.", **Folder)],
    data: Data,
    output: Output,
    resume: Resume = False,
) -> None:
    """Hidden-state distillation of a projected student from its teacher, on plain texts.

    Example: python -m m3_training distil training/recipes/m3-tiny-distil.yaml --model small --teacher large
    --data pairs --output distilled
    """
    from m3_core.model import M3Model

    from .config import Distil, load_recipe
    from .distil import distil as make

    require("yaml", extra="train")
    settings = load_recipe(recipe)
    if not isinstance(settings, Distil):
        raise InputError(f"{recipe} is a recipe for train, not for distil")
    student, tokenizer = M3Model.load(model)
    trainer = make(student, M3Model.load(teacher)[0], tokenizer, settings, data, output)
    console.print(f"wrote {trainer.run(resume=resume)}")


@app.command()
def export(
    models: Annotated[
        list[Path], typer.Argument(help="Model folders; the weights of several are averaged.", **Folder)
    ],
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    dtype: Annotated[
        str, typer.Option(help="Type of the stored weights: float16, bfloat16 or float32.")
    ] = "float16",
    sparse_scale: Annotated[
        float, typer.Option(help="Factor on all lexical weights; sparse scores grow by its square.")
    ] = 1.0,
) -> None:
    """Write the model folder to use, with smaller weights; training goes on from the float32 one.

    Example: python -m m3_training export first/model last/model --output m3-mine --sparse-scale 2
    """
    import torch

    from m3_core.model import M3Model

    from .export import average, scale_sparse

    if dtype not in ("float16", "bfloat16", "float32"):
        raise InputError(f"--dtype is float16, bfloat16 or float32, not {dtype!r}")
    loaded = [M3Model.load(folder) for folder in models]
    model = average([model for model, _ in loaded])
    if sparse_scale != 1:
        scale_sparse(model, sparse_scale)
    model.save(output, loaded[-1][1], dtype=getattr(torch, dtype))
    console.print(f"wrote {output}")


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A model folder, a bundled model's name, or a hub repository.")
    ],
    data: Annotated[Path, typer.Option(help="The folder that holds *.eval.jsonl.gz files.", **Folder)],
    max_queries: Annotated[
        int | None, typer.Option(help="Of more questions in a file, a seeded sample of so many.", min=1)
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 on a CPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """nDCG@10 per file and mode, beside BM25 on words and on character 3-grams.

    All passages of a file are candidates. Equal scores rank the answer last.
    Example: python -m m3_training evaluate m3-tiny --data ../shared/data/qa --max-queries 500
    """
    from m3_core import M3Encoder

    from .evaluate import EVAL_FILES, averages, read_questions
    from .evaluate import evaluate as measure

    require("bm25s", extra="train")
    files = sorted(data.glob(EVAL_FILES))
    if not files:
        raise InputError(f"{data} holds no {EVAL_FILES}")
    encoder = M3Encoder.load(model, dtype=dtype)
    results = []
    for path in files:
        with console.status(f"evaluating {path.name}"):
            results.append(measure(encoder, read_questions(path, max_queries)))
    rows = [*results, averages(results)]
    if as_json:
        print(
            json.dumps(
                [{"file": r.name, "queries": r.queries, "passages": r.passages, **r.ndcg} for r in rows]
            )
        )
        return
    table = Table("file", "queries", "passages", *rows[0].ndcg, title="nDCG@10")
    for row in rows:
        numbers = (f"{value:.3f}" for value in row.ndcg.values())
        table.add_row(row.name, str(row.queries), str(row.passages), *numbers)
    Console().print(table)


def main() -> None:
    """Run a command; what the user can mend is said in one line, with exit code 1."""
    try:
        app()
    except M3Error as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name != "lxml":  # the one library of the extra that `prepare` imports by itself
            raise
        console.print("error: lxml is missing: pip install 'm3-retrieval[train]'", style="red", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
