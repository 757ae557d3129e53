"""How fast texts become vectors, beside FlagEmbedding in the same run: `python benchmarks/encode.py`.

A random model with the bundled tokenizer, 6 layers x 384 wide, or with ``--shape bge-m3`` the 24 x 1024 of BGE-M3
(2.3 GB on disk while it runs), or any folder with ``--model``. Passages have lengths as web passages have, median
about 120 tokens; all three representations are computed. The engines take turns, the best round of each counts;
the ratio is that of texts per second to FlagEmbedding's.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3_core.encoder import M3Encoder
from m3_core.folder import find_model
from m3_core.model import M3Model
from m3_core.tokenizer import M3Tokenizer

SHAPES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "vocab_size": 32_000},
    "bge-m3": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 250_002,
    },
}
Encode = Callable[[list[str]], object]


def random_model(shape: str, folder: Path) -> Path:
    """A random XLM-RoBERTa of that shape in BGE-M3 format, with the bundled tokenizer."""
    tokenizer = M3Tokenizer.load(find_model("m3-tiny"))
    config = {
        "model_type": "xlm-roberta",
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
        "intermediate_size": 4 * SHAPES[shape]["hidden_size"],
        **SHAPES[shape],
    }
    torch.manual_seed(0)
    model = M3Model(config, multi_dim=SHAPES[shape]["hidden_size"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.normal_(0, 0.02)
    model.save(folder, tokenizer)
    return folder


def passages(tokenizer: M3Tokenizer, count: int) -> list[str]:
    """Texts of words that are one token each, log-normally long."""
    vocabulary = tokenizer.backend.get_vocab()
    words = sorted(word for word in vocabulary if word.isalpha() and word.isascii() and len(word) > 2)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(118), 0.6, count).astype(int), 4, 1000)
    return [" ".join(words[place] for place in rng.integers(len(words), size=length)) for length in lengths]


def reference(folder: Path, width: int, batch_size: int) -> Encode:
    """FlagEmbedding on the same folder."""
    from FlagEmbedding import BGEM3FlagModel

    with redirect_stderr(StringIO()):
        model: Any = BGEM3FlagModel(str(folder), use_fp16=False, devices=["cpu"], colbert_dim=width)

    def encode(texts: list[str]) -> object:
        with redirect_stderr(StringIO()):  # its progress bars
            return model.encode(
                texts,
                batch_size=batch_size,
                max_length=8192,
                return_dense=True,
                return_sparse=True,
                return_colbert_vecs=True,
            )

    return encode


def seconds(encode: Encode, texts: list[str]) -> float:
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--model", help="a folder or a bundled model instead of a random one")
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-tokens", type=int, help="tokens in one of our forwards")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 4], help="FlagEmbedding's")
    parser.add_argument("--without-reference", action="store_true", help="time this library only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = find_model(options.model) if options.model else random_model(options.shape, Path(scratch))
        run(folder, options)


def run(folder: Path, options: argparse.Namespace) -> None:
    """Print a line per engine."""
    engines: dict[str, Encode] = {}
    for dtype in ("float32", "bfloat16"):
        encoder = M3Encoder.load(folder, device="cpu", dtype=dtype, batch_tokens=options.batch_tokens)
        engines[f"m3_core {dtype}"] = encoder.encode_documents
    texts = passages(encoder.tokenizer, options.texts)
    query = " ".join(texts[0].split()[:10])
    head = encoder.model.colbert_linear
    theirs = [] if options.without_reference or head is None else options.batch_sizes
    for size in theirs:
        engines[f"FlagEmbedding batch {size}"] = reference(folder, head.out_features, size)
    tokens = sum(map(len, encoder.tokenizer.encode(texts, 8192)[0]))
    best = dict.fromkeys(engines, float("inf"))
    latency: dict[str, list[float]] = {name: [] for name in engines}
    for encode in engines.values():
        encode(texts[:4])
    for _ in range(options.rounds):
        for name, encode in engines.items():
            best[name] = min(best[name], seconds(encode, texts))
            latency[name] += [seconds(encode, [query]) for _ in range(5)]
    fastest = min((best[f"FlagEmbedding batch {size}"] for size in theirs), default=None)
    print(f"{len(texts)} texts, {tokens} tokens, {options.threads} threads")
    print(f"{'':24} {'texts/s':>8} {'tokens/s':>9} {'query ms':>9}  ratio to FlagEmbedding's best")
    for name, time_taken in best.items():
        ratio = "" if fastest is None else f"{fastest / time_taken:6.2f}"
        middle = statistics.median(latency[name]) * 1e3
        print(f"{name:24} {len(texts) / time_taken:8.1f} {tokens / time_taken:9.0f} {middle:9.1f}  {ratio}")


if __name__ == "__main__":
    main()
