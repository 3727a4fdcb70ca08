"""Train a Lightning module overparameterized: two lines, when it is made and at the end.

A small convolutional network on random blobs, 'sides' kernels for its convolutions, decay of the
products. Run ``python examples/lightning_module.py``; it needs lightning.
"""

from __future__ import annotations

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from overparam.reparam import collapse, overparameterize, set_weight_decay_on


class Classifier(lightning.LightningModule):
    """Which of two stripes is brighter."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 8 * 8, 2),
        )
        overparameterize(self.network, targets="all", strategy="sides")
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross entropy."""
        del index
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW whose decay acts on the kernels, not on their factors."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=0.01)
        set_weight_decay_on(self, optimizer, "product")
        return optimizer


def main() -> None:
    """Train a few steps, collapse, and check that nothing but the factors is gone."""
    lightning.seed_everything(0, verbose=False)
    labels = torch.randint(0, 2, (256,))
    images = torch.randn(256, 1, 8, 8)
    images[torch.arange(256), 0, labels * 7] += 2
    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size=32))
    collapse(module)
    print(f"loss {module.losses[0]:.2f} -> {module.losses[-1]:.2f}; {list(module.state_dict())}")
    assert module.losses[-1] < module.losses[0]
    assert all(name.endswith(("weight", "bias")) for name in module.state_dict())


if __name__ == "__main__":
    main()
