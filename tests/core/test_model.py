"""Folders: written, read by other libraries, read in every form, damaged and hostile."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m3_core.encoder import M3Encoder
from m3_core.errors import ModelError, RepresentationMissing
from m3_core.folder import BUNDLED, find_model
from m3_core.model import M3Model
from m3_core.types import Representation


@pytest.fixture(params=["bert", "xlmr"])
def folder(request: pytest.FixtureRequest, bert_folder: Path, xlmr_folder: Path) -> Path:
    return bert_folder if request.param == "bert" else xlmr_folder


@pytest.fixture
def copy(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "copy"))


def test_save_and_load_keep_weights_fingerprint_and_vectors(
    folder: Path, tmp_path: Path, texts: tuple[str, ...]
) -> None:
    model, tokenizer = M3Model.load(folder)
    model.save(tmp_path / "again", tokenizer)
    again, _ = M3Model.load(tmp_path / "again")
    assert again.fingerprint == model.fingerprint
    assert model.fingerprint is not None
    assert len(model.fingerprint) == 32
    for (name, left), (other, right) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(left, right)
    left, right = (M3Encoder.load(path).encode_documents(texts) for path in (folder, tmp_path / "again"))
    assert left.dense is not None
    assert np.array_equal(left.dense, right.dense)


def test_a_model_can_be_saved_into_the_folder_it_came_from(
    copy: Path, texts: tuple[str, ...], folder: Path
) -> None:
    model, tokenizer = M3Model.load(copy)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save(copy, tokenizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert M3Model.load(copy)[0].fingerprint == model.fingerprint
    # Another model over it leaves nothing of the first behind.
    other, other_tokenizer = M3Model.load(folder)
    other.sparse_linear = None
    other.save(copy, other_tokenizer)
    assert M3Model.load(copy)[0].representations == {Representation.DENSE, Representation.MULTI}


def test_the_fingerprint_follows_whatever_changes_the_vectors(copy: Path, tmp_path: Path) -> None:
    model, tokenizer = M3Model.load(copy)
    seen = {model.fingerprint}
    with torch.no_grad():
        model.colbert_linear.bias[0] += 1e-6  # type: ignore[union-attr]
    seen.add(model.compute_fingerprint(tokenizer))
    for change in ({"num_attention_heads": 2}, {"layer_norm_eps": 1e-5}, {"hidden_act": "gelu_new"}):
        config = json.loads((copy / "config.json").read_text())
        other = Path(shutil.copytree(copy, tmp_path / "".join(change)))
        (other / "config.json").write_text(json.dumps({**config, **change}))
        seen.add(M3Model.load(other)[0].fingerprint)
    (copy / "sparse_linear.pt").unlink()
    seen.add(M3Model.load(copy)[0].fingerprint)
    assert len(seen) == 6
    # What a folder says besides does not matter.
    assert M3Model.load(tmp_path / "hidden_act")[0].fingerprint in seen
    assert M3Encoder.load(copy, dtype="bfloat16").fingerprint == M3Encoder.load(copy).fingerprint
    assert M3Encoder.load(copy, mcls=True).fingerprint != M3Encoder.load(copy).fingerprint


def test_half_precision_halves_the_file(folder: Path, tmp_path: Path, texts: tuple[str, ...]) -> None:
    model, tokenizer = M3Model.load(folder)
    model.save(tmp_path / "half", tokenizer, dtype=torch.float16)
    whole, half = ((path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half"))
    assert half < 0.51 * whole
    left, right = (M3Encoder.load(path).encode_documents(texts).dense for path in (folder, tmp_path / "half"))
    assert left is not None
    assert right is not None
    assert (left * right).sum(axis=1).min() > 0.999


def test_sentence_transformers_gives_the_same_dense_vectors(folder: Path, texts: tuple[str, ...]) -> None:
    from sentence_transformers import SentenceTransformer

    opened = SentenceTransformer(str(folder), device="cpu")
    assert opened.max_seq_length == 8192
    expected = opened.encode(list(texts), batch_size=4)
    found = M3Encoder.load(folder, device="cpu").encode_documents(texts).dense
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


# Other forms of the same weights


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_shards(folder: Path, stem: str, save: Callable[[Any, Path], None]) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {}
    for part in range(3):
        name = stem.replace(".", f"-{part + 1:05}-of-00003.", 1)
        some = {key: value.clone() for row, (key, value) in enumerate(state.items()) if row % 3 == part}
        save(some, folder / name)
        where |= dict.fromkeys(some, name)
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def with_prefix(folder: Path, prefix: str) -> None:
    state = {prefix + name: value for name, value in load_file(folder / "model.safetensors").items()}
    width = state[f"{prefix}embeddings.word_embeddings.weight"].shape[1]
    extra = {
        f"{prefix}pooler.dense.weight": torch.zeros(width, width),
        f"{prefix}embeddings.position_ids": torch.arange(4),
        "lm_head.bias": torch.zeros(9),
        "cls.predictions.bias": torch.zeros(9),
    }
    save_file({**state, **extra}, folder / "model.safetensors")


def with_old_names(folder: Path) -> None:
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, value in load_file(folder / "model.safetensors").items():
        for new, former in old.items():
            name = name.replace(new, former)
        state[name] = value
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        as_pickle,
        lambda folder: as_shards(folder, "model.safetensors", save_file),
        lambda folder: as_shards(folder, "pytorch_model.bin", torch.save),
        lambda folder: with_prefix(folder, "roberta."),
        lambda folder: with_prefix(folder, "bert."),
        with_old_names,
    ],
    ids=["bin", "safetensors shards", "bin shards", "roberta.", "bert.", "gamma and beta"],
)
def test_other_forms_of_the_same_weights(copy: Path, change: Callable[[Path], None]) -> None:
    expected = M3Model.load(copy)[0].fingerprint
    change(copy)
    assert M3Model.load(copy)[0].fingerprint == expected


@pytest.mark.parametrize("kind", ["sparse", "multi"])
def test_a_folder_without_a_head_offers_what_it_has(copy: Path, kind: str, texts: tuple[str, ...]) -> None:
    file = {"sparse": "sparse_linear.pt", "multi": "colbert_linear.pt"}[kind]
    whole = M3Encoder.load(copy).encode_documents(texts)
    (copy / file).unlink()
    encoder = M3Encoder.load(copy)
    left = frozenset(Representation) - {kind}
    vectors = encoder.encode_documents(texts)
    assert encoder.representations == vectors.representations == left
    assert np.array_equal(vectors.dense, whole.dense)  # type: ignore[arg-type]
    with pytest.raises(RepresentationMissing, match=rf"no {kind} representation: its folder holds no {file}"):
        encoder.encode_documents(texts, representations=(kind,))  # type: ignore[arg-type]
    with pytest.raises(RepresentationMissing, match=kind):
        encoder.compute_scores([("a", "b")])
    with pytest.raises(RepresentationMissing, match=kind):
        encoder.schema(representations=[Representation(kind)])


# Damaged and hostile folders


class Payload:
    """Unpickled by anything but a restricted unpickler, creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def hostile_zip(path: Path, target: Path) -> None:
    torch.save({"weight": Payload(target), "bias": torch.zeros(1)}, path)


def hostile_plain(path: Path, target: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Payload(target)}))


def hostile_old(path: Path, target: Path) -> None:
    torch.save({"weight": Payload(target)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["sparse_linear.pt", "colbert_linear.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("write", [hostile_zip, hostile_plain, hostile_old])
def test_a_hostile_pickle_is_refused_and_not_run(
    copy: Path, tmp_path: Path, name: str, write: Callable[[Path, Path], None]
) -> None:
    target = tmp_path / "created"
    if name == "pytorch_model.bin":
        (copy / "model.safetensors").unlink()
    write(copy / name, target)
    with pytest.raises(ModelError, match=rf"{name} cannot be read as tensors"):
        M3Model.load(copy)
    assert not target.exists()
    # The payload works where nobody is careful, so this test can fail.
    with suppress(Exception):
        torch.load(copy / name, weights_only=False)
    assert target.is_dir()


@pytest.mark.parametrize(
    "name", ["sparse_linear.pt", "colbert_linear.pt", "pytorch_model.bin", "model.safetensors"]
)
@pytest.mark.parametrize("damage", ["empty", "half", "last byte", "text", "noise", "flipped"])
def test_damaged_weights_are_named(copy: Path, name: str, damage: str) -> None:
    if name == "pytorch_model.bin":
        as_pickle(copy)
    path = copy / name
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    damaged = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "last byte": content[:-1],
        "text": b"<!doctype html><title>404</title>",
        "noise": rng.bytes(4096),
        "flipped": bytes(255 - byte for byte in content[:256]) + content[256:],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(ModelError, match=name):
        M3Model.load(copy)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([torch.zeros(1)], "not a dictionary of tensors"),
        ({"weight": torch.zeros(1, 32), "bias": "no"}, "not a dictionary of tensors"),
        ({"weight": torch.zeros(1, 32)}, "should hold a weight .* and a bias"),
        ({"weight": torch.zeros(32), "bias": torch.zeros(1)}, "should hold a weight"),
        ({"weight": torch.zeros(0, 32), "bias": torch.zeros(0)}, "should hold a weight"),
        ({"weight": torch.zeros(1, 31), "bias": torch.zeros(1)}, r"weight has shape \(1, 31\).*\(1, 32\)"),
        ({"weight": torch.zeros(2, 32), "bias": torch.zeros(2)}, r"weight has shape \(2, 32\).*\(1, 32\)"),
        ({"weight": torch.zeros(1, 32).int(), "bias": torch.zeros(1)}, "quantised weights are not supported"),
    ],
)
def test_a_head_of_the_wrong_form_is_named(copy: Path, state: Any, message: str) -> None:
    torch.save(state, copy / "sparse_linear.pt")
    with pytest.raises(ModelError, match=rf"sparse_linear\.pt.*{message}"):
        M3Model.load(copy)


def test_weights_that_do_not_fit_the_configuration_are_named(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for change, message in (
        ({"intermediate_size": 65}, r"intermediate\.dense\.\w+ has shape .* config\.json says"),
        ({"num_hidden_layers": 3}, r"weights missing: \['encoder\.layer\.2"),
        ({"num_hidden_layers": 1}, r"weights not known: \['encoder\.layer\.1"),
        ({"vocab_size": 5}, "word_embeddings.weight has shape"),
        ({"model_type": "llama"}, r"config\.json: model_type 'llama'"),
    ):
        (copy / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelError, match=message):
            M3Model.load(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_damaged_json_is_named(copy: Path, name: str, content: str) -> None:
    if name != "config.json":
        (copy / "model.safetensors").unlink()
    (copy / name).write_text(content)
    with pytest.raises(ModelError, match=rf"{name} is not (a )?JSON"):
        M3Model.load(copy)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_a_map_is_named(copy: Path, index: Any) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json has no weight_map"):
        M3Model.load(copy)


def test_shards_are_looked_for_in_the_folder_only(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").replace(tmp_path / "outside.safetensors")
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../outside.safetensors"}}')
    with pytest.raises(ModelError, match=r"copy/outside\.safetensors cannot be read"):
        M3Model.load(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"copy holds no config\.json"),
        ("model.safetensors", "copy holds neither model.safetensors nor pytorch_model.bin"),
        ("tokenizer.json", "copy: the tokenizer cannot be read"),
        ("tokenizer_config.json", "copy: the tokenizer cannot be read: .* names no cls"),
    ],
)
def test_a_missing_file_is_named(copy: Path, name: str, message: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=message):
        M3Model.load(copy)


def test_a_tokenizer_larger_than_the_model_is_refused(copy: Path) -> None:
    parts = json.loads((copy / "tokenizer.json").read_text())
    size = json.loads((copy / "config.json").read_text())["vocab_size"]
    parts["added_tokens"].append({**parts["added_tokens"][0], "id": size, "content": "[NEW]"})
    parts["model"]["vocab"]["[NEW]"] = size
    (copy / "tokenizer.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match=rf"token ids up to {size}, the model embeds {size} tokens"):
        M3Model.load(copy)


# Finding models


def test_a_folder_is_itself(tiny_model_folder: Path) -> None:
    assert find_model(tiny_model_folder) == tiny_model_folder
    assert find_model(str(tiny_model_folder)) == tiny_model_folder


def test_a_bundled_model_is_found_by_its_name() -> None:
    bundled = sorted(path.name for path in BUNDLED.glob("*") if path.is_dir())
    for name in bundled:
        assert find_model(name) == BUNDLED / name


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "/no/such/folder", "a/b/c", "~/models/x"])
def test_an_unknown_name_says_what_can_be_given(name: str) -> None:
    with pytest.raises(ModelError, match=rf"there is no folder '{name}'; give a folder, a bundled model"):
        find_model(name)


HUB = """
import sys
from m3_core.errors import ModelError
from m3_core.folder import find_model
try:
    print(find_model("BAAI/bge-m3"))
except ModelError as error:
    print("ModelError:", error)
"""


def ask_hub(endpoint: str, cache: Path) -> str:
    """What find_model says in a process that looks for the hub at ``endpoint``."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    return done.stdout


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def endpoint(server: socket.socket) -> str:
    return "http://{}:{}".format(*server.getsockname())


@pytest.mark.slow
def test_a_hub_that_never_answers_is_given_up(listener: socket.socket, tmp_path: Path) -> None:
    # Connections are accepted by the system and nobody speaks; without a limit this waits for ever.
    said = ask_hub(endpoint(listener), tmp_path)
    assert said.startswith(
        "ModelError: 'BAAI/bge-m3' is no folder here and could not be fetched from the hub"
    )


@pytest.mark.slow
@pytest.mark.parametrize("status", ["404 Not Found", "401 Unauthorized", "500 Internal Server Error"])
def test_a_hub_that_refuses_is_an_error_of_ours(listener: socket.socket, tmp_path: Path, status: str) -> None:
    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            with connection:
                connection.recv(65536)
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    threading.Thread(target=answer, daemon=True).start()
    said = ask_hub(endpoint(listener), tmp_path)
    assert said.startswith("ModelError: 'BAAI/bge-m3'")
    assert status[:3] in said


@pytest.mark.slow
def test_an_unreachable_hub_is_no_matter_for_what_lies_in_the_cache(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = endpoint(closed)
    assert ask_hub(nowhere, tmp_path).startswith("ModelError")
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--BAAI--bge-m3"
    shutil.copytree(tiny_model_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert ask_hub(nowhere, tmp_path).strip() == str(repository / "snapshots" / commit)
