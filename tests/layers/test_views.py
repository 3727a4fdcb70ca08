"""Views of weights as matrices: each is checked against what the layer computes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from overparam.layers import (
    convolution_view,
    expert_view,
    flat_view,
    linear_view,
    packed_view,
    parameter_view,
    transposed_convolution_view,
)

LAYERS = {
    "linear": (nn.Linear(3, 2), "weight", (1, 2, 3)),
    "conv1d": (nn.Conv1d(4, 6, 5), "weight", (1, 6, 20)),
    "conv2d grouped": (nn.Conv2d(4, 6, 3, groups=2), "weight", (2, 3, 18)),
    "conv2d depthwise": (nn.Conv2d(4, 8, 3, groups=4), "weight", (4, 2, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), "weight", (1, 3, 16)),
    "transposed": (nn.ConvTranspose1d(4, 6, 5), "weight", (1, 30, 4)),
    "transposed grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), "weight", (2, 27, 2)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2), "weight", (1, 24, 2)),
    "embedding": (nn.Embedding(7, 3), "weight", (1, 7, 3)),
    "embedding bag": (nn.EmbeddingBag(7, 3), "weight", (1, 7, 3)),
    "attention": (nn.MultiheadAttention(4, 2), "in_proj_weight", (3, 4, 4)),
    "attention, own sizes": (nn.MultiheadAttention(4, 2, kdim=6), "k_proj_weight", (1, 4, 6)),
    "lstm": (nn.LSTM(3, 5), "weight_ih_l0", (4, 5, 3)),
    "lstm reverse": (nn.LSTM(3, 5, bidirectional=True), "weight_hh_l0_reverse", (4, 5, 5)),
    "lstm projection": (nn.LSTM(3, 5, proj_size=2), "weight_hr_l0", (1, 2, 5)),
    "gru": (nn.GRU(3, 5), "weight_hh_l0", (3, 5, 5)),
    "rnn": (nn.RNN(3, 5), "weight_hh_l0", (1, 5, 5)),
    "lstm cell": (nn.LSTMCell(3, 5), "weight_ih", (4, 5, 3)),
    "gru cell": (nn.GRUCell(3, 5), "weight_hh", (3, 5, 5)),
    "bilinear": (nn.Bilinear(3, 4, 5), "weight", (1, 5, 12)),
}


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 5))


class Conv1D(nn.Module):
    """As in transformers: a linear layer that stores its weight as (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))


LAYERS["experts"] = (Experts(), "weight", (3, 4, 5))
LAYERS["gate"] = (
    nn.ParameterDict({"w_g": torch.ones(4, 3), "w_v": torch.ones(4, 3)}),
    "w_g",
    (1, 4, 3),
)
LAYERS["transposed linear"] = (Conv1D(4, 6), "weight", (1, 4, 6))


@pytest.mark.parametrize("case", LAYERS)
def test_shape_and_inverse(case: str) -> None:
    module, name, expected = LAYERS[case]
    weight = getattr(module, name).detach()
    view = parameter_view(module, name)
    assert view is not None
    assert tuple(view.split(weight).shape) == expected
    assert (view.batch, view.rows, view.columns) == expected
    torch.testing.assert_close(view.join(view.split(weight)), weight, rtol=0, atol=0)
    # Contiguous weights are read in place: no copy of the parameter in a step.
    assert view.split(weight).data_ptr() == weight.data_ptr()


def test_non_contiguous_tensors_keep_their_entries() -> None:
    weight = torch.randn(3, 3, 2, 8).permute(3, 2, 0, 1)
    view = convolution_view(weight.shape, groups=4)
    assert not weight.is_contiguous()
    assert torch.equal(view.join(view.split(weight)), weight)


def test_convolution_matrices_act_on_patches() -> None:
    kernel, image = torch.randn(6, 2, 3, 3), torch.randn(1, 4, 8, 7)
    matrices = convolution_view(kernel.shape, groups=2).split(kernel)
    patches = functional.unfold(image, 3).unflatten(1, (2, 18))[0]
    expected = functional.conv2d(image, kernel, groups=2).flatten(2)[0]
    torch.testing.assert_close((matrices @ patches).flatten(0, 1), expected)


def test_transposed_convolution_matrices_act_on_positions() -> None:
    kernel, image = torch.randn(4, 3, 3, 3), torch.randn(1, 4, 5, 6)
    matrices = transposed_convolution_view(kernel.shape, groups=2).split(kernel)
    columns = matrices @ image.flatten(2)[0].unflatten(0, (2, 2))
    folded = functional.fold(columns.flatten(0, 1)[None], (7, 8), 3)
    torch.testing.assert_close(folded, functional.conv_transpose2d(image, kernel, groups=2))


def test_transposed_linear_matrix_maps_inputs_to_outputs() -> None:
    layer, x = Conv1D(4, 6), torch.randn(6)
    view = parameter_view(layer, "weight")
    assert view is not None
    (matrix,) = view.split(layer.weight)
    torch.testing.assert_close(matrix @ x, x @ layer.weight)


def test_packed_matrices_are_the_projections() -> None:
    weight, x = torch.randn(12, 4), torch.randn(4)
    matrices = packed_view(weight.shape, 3).split(weight)
    torch.testing.assert_close((matrices @ x).flatten(), functional.linear(x, weight))


class Lengths(nn.Module):
    """What the older ``torch.nn.utils.weight_norm`` leaves in a layer, and a scale by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(4, 1))
        self.weight_v = nn.Parameter(torch.ones(4, 3))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.Linear(3, 2), "bias"),
        (nn.LayerNorm((3, 4)), "weight"),
        (nn.BatchNorm2d(3), "weight"),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "bias_k"),
        (Lengths(), "weight_g"),
        (Lengths(), "scale"),
    ],
)
def test_entrywise_parameters_are_no_matrices(module: nn.Module, name: str) -> None:
    assert parameter_view(module, name) is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: linear_view((2, 3, 4)), "2 dimensions"),
        (lambda: convolution_view((6, 3)), "three dimensions"),
        (lambda: convolution_view((6, 3, 3), groups=4), "groups is 4.*divide 6"),
        (lambda: packed_view((8, 3), blocks=3), "blocks is 3.*divide 8"),
        (lambda: expert_view((8, 3)), "use linear_view"),
        (lambda: flat_view((8,)), "vector"),
        (lambda: linear_view((2, 3)).split(torch.zeros(3, 2)), r"\(3, 2\).*made for \(2, 3\)"),
        (lambda: linear_view((2, 3)).join(torch.zeros(2, 3)), r"joins \(1, 2, 3\)"),
        (lambda: parameter_view(nn.LazyLinear(3), "weight"), "no shape yet"),
    ],
)
def test_errors_name_the_value_and_the_remedy(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
