"""What a training run is made of: dataclasses that refuse contradictions and name the option.

A recipe is a YAML file with one section per class; ``load_recipe`` reads it. Unknown options are errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from m3_core.errors import InputError

Section = TypeVar("Section")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerMode:
    """A number for each of the three representations, and for their ensemble where a loss has one."""

    dense: float = 1.0
    sparse: float = 1.0
    multi: float = 1.0
    ensemble: float = 1.0

    def __post_init__(self) -> None:
        for option in fields(self):
            _require(getattr(self, option.name) >= 0, f"{option.name}: a weight must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The unified loss (arXiv 2402.03216, section 3.3).

    scores: weights of the three scores in the ensemble score. contrast: weights of the InfoNCE losses of the
    three and of the ensemble. distil: weights of the cross entropies towards the ensemble; all 0 turns
    self-knowledge distillation off. The paper has scores 1, 0.3, 1 and the sparse losses weighted 0.1;
    FlagEmbedding's code divides differently, which is why these are options.
    """

    temperature: float = 0.05
    scores: PerMode = field(default_factory=lambda: PerMode(sparse=0.3))
    contrast: PerMode = field(default_factory=lambda: PerMode(sparse=0.1))
    distil: PerMode = field(default_factory=lambda: PerMode(sparse=0.1, ensemble=0.0))

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"loss.temperature must be above 0, not {self.temperature}")
        _require(
            self.distil.ensemble == 0,
            "loss.distil.ensemble must be 0: the ensemble is the teacher and learns nothing from itself",
        )
        contrast = self.contrast
        _require(
            contrast.dense + contrast.sparse + contrast.multi + contrast.ensemble > 0,
            "loss.contrast: at least one weight must be above 0",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """Batches of one length: ``size`` pairs, passages cut to ``passage_tokens``; ``share`` of all batches."""

    passage_tokens: int
    size: int
    share: float = 1.0

    def __post_init__(self) -> None:
        _require(self.passage_tokens >= 8, f"passage_tokens must be at least 8, not {self.passage_tokens}")
        _require(self.size >= 2, f"size must be at least 2 (the others are the negatives), not {self.size}")
        _require(self.share > 0, f"share must be above 0, not {self.share}; leave the shape out instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which files, in which proportion, in which shapes.

    sources: file name in the data folder -> share of the batches. The passages of a batch come from
    one source and one language, drawn by the square root of its number of pairs, times its factor in ``favoured``
    where it has one. cross_language: the share of a source's batches whose queries are in other languages than
    the passages, where it has such. neighbours: passages of a batch come in groups of so many that resemble one
    another, as hard negatives; 1 draws every passage by itself.
    """

    sources: Mapping[str, float]
    shapes: tuple[BatchShape, ...]
    query_tokens: int = 48
    cross_language: float = 0.2
    favoured: Mapping[str, float] = field(default_factory=dict)
    neighbours: int = 1

    def __post_init__(self) -> None:
        smallest = min((shape.size for shape in self.shapes), default=1)
        _require(
            1 <= self.neighbours <= max(1, smallest),
            f"data.neighbours ({self.neighbours}) must be 1 to the smallest size of data.shapes ({smallest})",
        )
        _require(bool(self.sources), "data.sources is empty: name at least one file and its share")
        for name, share in self.sources.items():
            _require(share > 0, f"data.sources.{name}: the share must be above 0; leave the file out instead")
        _require(bool(self.shapes), "data.shapes is empty: give at least one of passage_tokens and size")
        _require(self.query_tokens >= 8, f"data.query_tokens must be at least 8, not {self.query_tokens}")
        _require(0 <= self.cross_language <= 1, "data.cross_language is a share and must be 0 to 1")
        for lang, factor in self.favoured.items():
            _require(factor > 0, f"data.favoured.{lang}: the factor must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The texts of hidden-state distillation: a file of JSON lines with ``lang`` and ``text``.

    favoured: languages drawn twice as often as the square root of their number of texts says.
    """

    file: str = "texts.jsonl"
    tokens: int = 128
    batch_tokens: int = 6144
    favoured: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(8 <= self.tokens <= self.batch_tokens, "texts.tokens must be 8 to texts.batch_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Optimiser and schedule: linear warm-up, a constant rate, and over the last ``decay_steps`` linear to 0.

    decay_steps: left out, all steps after the warm-up. A run that is resumed before its decay has begun may be
    given another number of steps.
    head_learning_rate: of the sparse and multi-vector heads, which start fresh. train_positions: false keeps the
    position embeddings as they are, which tiles to 8,192 need when training sees short texts only.
    dtype: of the matrix products, ``float32`` or ``bfloat16``; weights and optimiser stay float32.
    """

    steps: int
    learning_rate: float
    head_learning_rate: float | None = None
    warmup_steps: int = 0
    decay_steps: int | None = None
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    dropout: float = 0.0
    train_positions: bool = True
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"loop.steps must be at least 1, not {self.steps}")
        _require(
            0 <= self.warmup_steps < self.steps,
            f"loop.warmup_steps ({self.warmup_steps}) must be less than loop.steps ({self.steps})",
        )
        _require(
            self.decay_steps is None or 1 <= self.decay_steps <= self.steps - self.warmup_steps,
            f"loop.decay_steps ({self.decay_steps}) must be 1 to loop.steps - loop.warmup_steps "
            f"({self.steps - self.warmup_steps})",
        )
        _require(self.learning_rate > 0, f"loop.learning_rate must be above 0, not {self.learning_rate}")
        _require(
            self.head_learning_rate is None or self.head_learning_rate > 0,
            "loop.head_learning_rate must be above 0; leave it out for the learning rate of the rest",
        )
        _require(self.weight_decay >= 0, "loop.weight_decay must not be negative")
        _require(self.clip > 0, "loop.clip, the largest gradient norm, must be above 0")
        _require(
            self.dtype in ("float32", "bfloat16"), f"loop.dtype is float32 or bfloat16, not {self.dtype!r}"
        )
        _require(0 <= self.dropout < 1, f"loop.dropout must be 0 to 1, not {self.dropout}")
        _require(self.checkpoint_every >= 1, "loop.checkpoint_every must be at least 1")
        _require(self.log_every >= 1, "loop.log_every must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """A recipe for ``train``: the unified loss on question-passage pairs."""

    data: DataConfig
    loop: LoopConfig
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil:
    """A recipe for ``distil``: a student learns the hidden states of a teacher it was projected from."""

    loop: LoopConfig
    texts: TextConfig = field(default_factory=TextConfig)


Recipe = FineTune | Distil
_KINDS: Mapping[str, type[Recipe]] = {"train": FineTune, "distil": Distil}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe: YAML with ``kind`` (train or distil) and one section per class.

    Raises:
        InputError: no such file, no YAML, an unknown option, a missing one, or values that contradict each other.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"the recipe {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or content.get("kind") not in _KINDS:
        raise InputError(f"the recipe {path} needs a line 'kind: train' or 'kind: distil'")
    values = {name: value for name, value in content.items() if name != "kind"}
    try:
        return _build(_KINDS[content["kind"]], values, "")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _build(section: type[Section], values: object, where: str) -> Section:
    if not isinstance(values, dict):
        raise InputError(f"{where or 'the recipe'} must be a section with options, not {values!r}")
    hints = get_type_hints(section)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"unknown option {where}{unknown[0]}; there are {', '.join(sorted(hints))}")
    built = {name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()}
    try:
        return section(**built)
    except TypeError as error:
        # Only a required option left out gets here: names and types were checked above.
        raise InputError(f"{where or 'the recipe: '}{str(error).split(') ')[-1]}") from error


def _convert(hint: Any, value: object, where: str) -> Any:
    if hasattr(hint, "__dataclass_fields__"):
        return _build(hint, value, f"{where}.")
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list, not {value!r}")
        return tuple(_convert(get_args(hint)[0], item, f"{where}[{n}]") for n, item in enumerate(value))
    if get_origin(hint) is Mapping or get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where} must be a section of names and numbers, not {value!r}")
        return {str(name): _convert(float, item, f"{where}.{name}") for name, item in value.items()}
    wanted = next((kind for kind in (float, int) if kind in (hint, *get_args(hint))), hint)
    if wanted is float and isinstance(value, str):
        value = _number(value)  # YAML reads 1e-4 (without a dot) as a string
    if isinstance(value, bool) != (wanted is bool) or not isinstance(
        value, (int, float) if wanted is float else wanted
    ):
        raise InputError(f"{where} must be {wanted.__name__}, not {value!r}")
    return float(value) if wanted is float else value


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
