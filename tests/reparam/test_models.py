"""Models that nobody here wrote: same logits, a training step, all keys as before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overparam.reparam import collapse, collapse_state_dict, overparameterize
from overparam.reparam.attach import places

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed; install the extra 'models'"
)

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}
TOKENS = {"input_ids": torch.tensor([[1, 5, 7, 2], [3, 3, 9, 0]])}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)}


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4, use_cache=False
    )
    return transformers.GPT2LMHeadModel(config)


def _bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=16, **SMALL)
    return transformers.BertForMaskedLM(config)


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=50, num_key_value_heads=2, use_cache=False, **SMALL
    )
    return transformers.LlamaForCausalLM(config)


def _vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **SMALL)
    return transformers.ViTForImageClassification(config)


def _convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5
    )
    return transformers.ConvNextForImageClassification(config)


CASES = {
    "gpt2": (_gpt2, TOKENS),
    "bert": (_bert, TOKENS),
    "llama": (_llama, TOKENS),
    "vit": (_vit, IMAGES),
    "convnext": (_convnext, IMAGES),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("targets", ["all", "all-linear"])
def test_transformers(case: str, targets: str) -> None:
    make, inputs = CASES[case]
    _there_and_back(make, lambda model: model(**inputs).logits, targets)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_timm(name: str) -> None:
    timm = _timm()
    images = IMAGES["pixel_values"]
    _there_and_back(lambda: timm.create_model(name, num_classes=5), lambda m: m(images), "all")


def test_reparameterize_model_of_timm_collapses() -> None:
    timm = _timm()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 2, 1))).eval()
    plain = list(model.state_dict())
    overparameterize(model, targets="all")
    deployed = timm.utils.model.reparameterize_model(model)
    assert list(deployed.state_dict()) == plain
    assert len(list(places(model))) == 2
    images = IMAGES["pixel_values"]
    torch.testing.assert_close(deployed(images), model(images))


def _timm() -> Any:
    """timm, where it and the torchvision that it imports work with the torch that is installed."""
    try:
        import timm
        import timm.utils.model
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    return timm


def _there_and_back(
    make: Callable[[], nn.Module], forward: Callable[[nn.Module], Tensor], targets: str
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    keys = list(model.state_dict())
    names = [(name, p.requires_grad) for name, p in model.named_parameters()]
    types = [type(module) for module in model.modules()]
    before = forward(model).detach()
    scale = float(before.abs().max())

    overparameterize(model, targets=targets)
    assert sum(1 for _ in places(model)) >= 5
    torch.testing.assert_close(forward(model).detach(), before, rtol=0, atol=1e-5 * scale)

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    forward(model).square().mean().backward()
    optimizer.step()
    model.eval()
    trained = forward(model).detach()
    assert float((trained - before).abs().max()) > 1e-4 * scale

    assert sorted(collapse_state_dict(model.state_dict())) == sorted(keys)
    collapse(model)
    assert list(model.state_dict()) == keys
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == names
    assert [type(module) for module in model.modules()] == types
    torch.testing.assert_close(forward(model).detach(), trained, rtol=0, atol=1e-5 * scale)
