"""One check for any model: overparameterize, train a step, collapse."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from overparam.reparam import collapse, collapse_state_dict, overparameterize
from overparam.reparam.attach import places


def there_and_back(
    make: Callable[[], nn.Module], forward: Callable[[nn.Module], Tensor], targets: str
) -> dict[str, float]:
    """Assert that outputs are kept at both changes and all names at the end; the largest gaps."""
    torch.manual_seed(0)
    model = make().eval()
    keys = list(model.state_dict())
    names = [(name, p.requires_grad) for name, p in model.named_parameters()]
    types = [type(module) for module in model.modules()]
    before = forward(model).detach()
    scale = float(before.abs().max())

    overparameterize(model, targets=targets)
    assert sum(1 for _ in places(model)) >= 5
    start = float((forward(model).detach() - before).abs().max())
    assert start <= 1e-5 * scale

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    forward(model).square().mean().backward()
    optimizer.step()
    model.eval()
    trained = forward(model).detach()
    moved = float((trained - before).abs().max())
    assert moved > 1e-4 * scale

    assert sorted(collapse_state_dict(model.state_dict())) == sorted(keys)
    collapse(model)
    assert list(model.state_dict()) == keys
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == names
    assert [type(module) for module in model.modules()] == types
    end = float((forward(model).detach() - trained).abs().max())
    assert end <= 1e-5 * scale
    return {"start": start / scale, "moved": moved / scale, "end": end / scale}
