"""Reduces the width of a BERT: hidden states onto their main directions, half the heads, half the neurons.

Let P (hidden x width, orthonormal columns) span the directions in which the hidden states of a sample of texts
are largest. A matrix that reads the residual stream becomes W P, one that writes to it P^T W. Of the attention
heads and of the inner neurons those that write most are kept, and the matrices behind them are fitted by least
squares, so that what is kept stands in for what is dropped. LayerNorm does not commute with a rotation: its
weight and bias are fitted per dimension to what the large model's LayerNorm gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from m3_core.errors import InputError

from .backbone import Tensors

Array = npt.NDArray[np.float64]
NORM_TOKENS = 8_000  # tokens whose states are kept whole to fit the LayerNorms
RIDGE = 1e-4  # of the mean variance


@dataclass
class Moments:
    """Running mean and second moment of row vectors."""

    size: int
    count: int = 0
    total: Array = field(init=False)
    gram: Array = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.size)
        self.gram = np.zeros((self.size, self.size))

    def add(self, rows: torch.Tensor) -> None:
        """Take in rows of shape (n, size)."""
        self.count += len(rows)
        self.total += rows.sum(0).double().numpy()
        self.gram += (rows.T @ rows).double().numpy()

    @property
    def mean(self) -> Array:
        """The mean row, (size,)."""
        return self.total / self.count

    @property
    def covariance(self) -> Array:
        """The covariance, (size, size)."""
        mean: Array = self.mean
        return self.gram / self.count - np.outer(mean, mean)


def main_directions(states: Moments, width: int) -> Array:
    """The projection P, (hidden, width), of largest second moment, turned so that LayerNorm does least harm.

    LayerNorm takes the mean over the dimensions away, which is what lies along (1, ..., 1). A reflection moves
    the least of the kept directions there, so that only this one is lost. The second moment is taken about
    zero, not about the mean: the mean of hidden states is a large part of them and has to be carried too.
    """
    _, vectors = np.linalg.eigh(states.gram)
    kept: Array = vectors[:, ::-1][:, :width]
    mirror = np.full(width, -1 / np.sqrt(width))
    mirror[-1] += 1
    reflection = np.eye(width) - 2 * np.outer(mirror, mirror) / (mirror @ mirror)
    projection: Array = kept @ reflection
    return projection


def stand_in(weight: Array, bias: Array, inputs: Moments, kept: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Weight and bias of the linear layer on the ``kept`` inputs that is nearest to the full one, least squares."""
    covariance = inputs.covariance
    inner = covariance[np.ix_(kept, kept)]
    inner = inner + np.eye(len(kept)) * RIDGE * np.trace(inner) / len(kept)
    reduced: Array = np.linalg.solve(inner, covariance[kept] @ weight.T).T
    return reduced, bias + weight @ inputs.mean - reduced @ inputs.mean[kept]


def fit_norm(before: Array, after: Array, epsilon: float) -> tuple[Array, Array]:
    """LayerNorm weight and bias, (width,) each, that turn rows ``before`` into ``after`` as nearly as can be."""
    centred = before - before.mean(1, keepdims=True)
    normal = centred / np.sqrt(centred.var(1, keepdims=True) + epsilon)
    spread = normal.var(0) + 1e-12
    weight: Array = ((normal - normal.mean(0)) * (after - after.mean(0))).mean(0) / spread
    bias: Array = after.mean(0) - weight * normal.mean(0)
    return weight, bias


def largest(writes: Array, groups: int, kept: int) -> npt.NDArray[np.int64]:
    """Indices of the inputs in the ``kept`` groups (of ``groups`` equal ones) that write most, ascending."""
    per_group = writes.reshape(groups, -1).sum(1)
    chosen = np.sort(np.argsort(-per_group, kind="stable")[:kept])
    size = len(writes) // groups
    return (chosen[:, None] * size + np.arange(size)).ravel()


def project(
    model: Tensors, config: Mapping[str, Any], sample: Sequence[Sequence[int]], width: int
) -> tuple[Tensors, dict[str, int]]:
    """The tensors of the model at hidden size ``width``, and the entries of the configuration that change.

    ``sample`` is token ids of texts; heads keep their size, their number and that of the inner neurons shrink
    with the width. Raises InputError where the width is not a multiple of the head size, or not smaller.
    """
    hidden, heads, neurons = (
        config[name] for name in ("hidden_size", "num_attention_heads", "intermediate_size")
    )
    head_size = hidden // heads
    if width % head_size or not 0 < width < hidden:
        raise InputError(f"--hidden {width}: it must be a multiple of {head_size} below {hidden}")
    new_heads, new_neurons = width // head_size, neurons * width // hidden
    observed = _observe(model, config, sample)
    basis = main_directions(observed.states, width)

    small: Tensors = {}

    def put(name: str, tensor: Array) -> None:
        small[name] = np.ascontiguousarray(tensor, dtype=np.float32)

    def linear(name: str) -> tuple[Array, Array]:
        return model[f"{name}.weight"].astype(np.float64), model[f"{name}.bias"].astype(np.float64)

    for name in ("word", "position", "token_type"):
        key = f"embeddings.{name}_embeddings.weight"
        put(key, model[key] @ basis)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        for block, groups, count, readers in (
            (
                "attention.output.dense",
                heads,
                new_heads,
                [f"attention.self.{n}" for n in ("query", "key", "value")],
            ),
            ("output.dense", neurons, new_neurons, ["intermediate.dense"]),
        ):
            weight, bias = linear(f"{prefix}.{block}")
            inputs = observed.inputs[f"{prefix}.{block}"]
            writes = np.diag(inputs.covariance) * (weight**2).sum(0)
            kept = largest(writes, groups, count)
            for reader in readers:
                read_weight, read_bias = linear(f"{prefix}.{reader}")
                put(f"{prefix}.{reader}.weight", read_weight[kept] @ basis)
                put(f"{prefix}.{reader}.bias", read_bias[kept])
            reduced, offset = stand_in(basis.T @ weight, basis.T @ bias, inputs, kept)
            put(f"{prefix}.{block}.weight", reduced)
            put(f"{prefix}.{block}.bias", offset)
    for name, (before, after) in observed.norms.items():
        norm_weight, norm_bias = fit_norm(before @ basis, after @ basis, float(config["layer_norm_eps"]))
        put(f"{name}.weight", norm_weight)
        put(f"{name}.bias", norm_bias)
    pooler, pooler_bias = linear("pooler.dense")
    put("pooler.dense.weight", basis.T @ pooler @ basis)
    put("pooler.dense.bias", basis.T @ pooler_bias)
    return small, {"hidden_size": width, "num_attention_heads": new_heads, "intermediate_size": new_neurons}


@dataclass
class Observed:
    """What a sample of texts does inside the model, by the names of its modules."""

    states: Moments  # hidden states after every layer and after the embeddings
    inputs: dict[str, Moments]  # of the matrices that write to the residual stream
    norms: dict[str, tuple[Array, Array]]  # LayerNorm inputs and outputs of the first tokens


def _observe(model: Tensors, config: Mapping[str, Any], sample: Sequence[Sequence[int]]) -> Observed:
    from transformers import BertConfig, BertModel

    network = BertModel(BertConfig.from_dict(dict(config)))
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in model.items()}, strict=False)
    network.train(False)
    states = Moments(config["hidden_size"])
    inputs: dict[str, Moments] = {}
    norms: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    mask = torch.ones(0, dtype=torch.bool)

    def watch(name: str, module: nn.Module) -> None:
        def norm(_: nn.Module, given: tuple[torch.Tensor], result: torch.Tensor) -> None:
            states.add(result[mask])
            before, after = norms.setdefault(name, ([], []))
            if sum(map(len, before)) < NORM_TOKENS:
                before.append(given[0][mask])
                after.append(result[mask])

        def dense(layer: nn.Linear, given: tuple[torch.Tensor], _: torch.Tensor) -> None:
            inputs.setdefault(name, Moments(layer.in_features)).add(given[0][mask])

        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(norm)
        elif name.endswith("output.dense"):
            module.register_forward_hook(dense)

    for name, module in network.named_modules():
        watch(name, module)
    with torch.inference_mode():
        for start in range(0, len(sample), 32):
            batch = sample[start : start + 32]
            ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            for row, tokens in enumerate(batch):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                mask[row, : len(tokens)] = True
            network(input_ids=ids, attention_mask=mask.long())
    arrays = {
        name: (torch.cat(before).double().numpy(), torch.cat(after).double().numpy())
        for name, (before, after) in norms.items()
    }
    return Observed(states, inputs, arrays)
