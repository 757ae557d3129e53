"""From trained models to the one that is used: average, scale of the lexical weights."""

from collections.abc import Sequence

import torch

from m3_core.errors import InputError
from m3_core.model import M3Model


def average(models: Sequence[M3Model]) -> M3Model:
    """The model whose weights are the mean of those of several stages of one training, in the first one's place.

    Raises:
        InputError: the models differ in size or heads.
    """
    states = [model.state_dict() for model in models]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError("only models of the same size with the same heads can be averaged")
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    models[0].load_state_dict(mean)
    return models[0]


def scale_sparse(model: M3Model, factor: float) -> M3Model:
    """Multiply all lexical weights by ``factor``, and so sparse scores by its square; their order stays.

    The scores of the three representations are summed with fixed weights, so the scale of this one, which alone is
    free, decides how much it counts.

    Raises:
        InputError: the factor is not above 0, or the model has no sparse head.
    """
    if factor <= 0:
        raise InputError(f"the factor on the lexical weights must be above 0, not {factor}")
    if model.sparse_linear is None:
        raise InputError("the model has no sparse head whose weights could be scaled")
    with torch.no_grad():
        model.sparse_linear.weight.mul_(factor)
        model.sparse_linear.bias.mul_(factor)
    return model
