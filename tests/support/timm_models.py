"""timm's own models and its ``reparameterize_model``; ``test_timm.py`` runs this file.

It is a program of its own because timm imports torchvision, and torchvision's wheel is built for
CUDA. Beside a CPU build of torch its compiled operators do not load, and its import then fails for
want of the schemas of two of them, in this process and in every library that looks for it. The
models here use none of these operators, so that declaring the two schemas is enough.
"""

from collections.abc import Callable

import torch
from torch import nn

from overparam.reparam import overparameterize
from overparam.reparam.attach import places
from support.there_and_back import there_and_back

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def _declare_missing_schemas() -> object:
    """Make torchvision importable; the schemas live as long as what is returned."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


def _resnet() -> nn.Module:
    """A ResNet-10 with few channels; ResNet-18 and 50 pass too, in 9 and 25 seconds."""
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(8, 16, 24, 32))


def _mobilenet() -> nn.Module:
    import timm

    return timm.create_model("mobilenetv3_small_050", num_classes=5)


def _repvit() -> nn.Module:
    """A model whose blocks have a ``fuse`` of their own, which timm prefers."""
    import timm

    return timm.create_model("repvit_m0_9", num_classes=5)


def reparameterized(make: Callable[[], nn.Module]) -> float:
    """Relative gap of outputs once timm has collapsed the model; its keys must be timm's."""
    from timm.utils.model import reparameterize_model

    torch.manual_seed(0)
    model = make().eval()
    plain = reparameterize_model(model)
    expected = plain(IMAGES).detach()
    overparameterize(model, targets="all")
    deployed = reparameterize_model(model)
    assert list(places(model))
    assert not list(places(deployed))
    assert list(deployed.state_dict()) == list(plain.state_dict())
    gap = float((deployed(IMAGES).detach() - expected).abs().max() / expected.abs().max())
    assert gap <= 1e-5
    return gap


def main() -> None:
    """Check every model and print the gaps."""
    for name, make in (("resnet", _resnet), ("mobilenet", _mobilenet)):
        print(name, there_and_back(make, lambda model: model(IMAGES), "all"), flush=True)
    for name, make in (("mobilenet", _mobilenet), ("repvit", _repvit)):
        print("reparameterized", name, reparameterized(make), flush=True)


if __name__ == "__main__":
    LIBRARY = _declare_missing_schemas()
    main()
