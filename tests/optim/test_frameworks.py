"""Trainers of others: a run that is stopped, saved, loaded and gone on is the run in one piece."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.inner_cases import (
    HALF,
    WRAPPERS,
    advance,
    assert_same,
    batches,
    contents,
    loss_of,
    network,
    ready,
    started,
    wrapped,
)
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

INNER = ("AdamW", "Prodigy", "AdamWScheduleFree")
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)
every_inner = pytest.mark.parametrize("inner", INNER)


def expected(wrapper: str, inner: str, steps: list[int]) -> dict[str, Any]:
    """What a plain loop makes of the same model and batches."""
    model, optimizer = started(wrapper, inner)
    advance(model, optimizer, steps)
    return contents(model, optimizer)


# Epochs of three batches, without shuffling.
TWO_EPOCHS = [*range(HALF), *range(HALF)]


def loader() -> DataLoader[Tensor]:
    return DataLoader(list(batches()[:HALF]), batch_size=None)  # pyright: ignore


def lightning_module(wrapper: str, inner: str, seed: int, *, automatic: bool) -> Any:
    lightning = pytest.importorskip("lightning", reason="install the extra 'models'")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(seed)
            self.automatic_optimization = automatic

        def on_train_epoch_start(self) -> None:
            ready(self.optimizers())

        def training_step(self, batch: Tensor, index: int) -> Tensor | None:
            loss = loss_of(self.network, batch)
            if automatic:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None

        def configure_optimizers(self) -> Optimizer:
            return wrapped(wrapper, inner, self.network)

    return Module()


def fit(module: Any, epochs: int, checkpoint: Path | None = None) -> Any:
    import lightning

    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(), ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning with torch 2.13
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
@every_inner
@every_wrapper
def test_lightning(wrapper: str, inner: str, automatic: bool, tmp_path: Path) -> None:
    first = lightning_module(wrapper, inner, 0, automatic=automatic)
    fit(first, 1).save_checkpoint(tmp_path / "half.ckpt")
    second = lightning_module(wrapper, inner, 9, automatic=automatic)
    trainer = fit(second, 2, tmp_path / "half.ckpt")
    assert trainer.global_step == len(TWO_EPOCHS)
    found = contents(second.network, trainer.optimizers[0])
    assert_same(found, expected(wrapper, inner, TWO_EPOCHS))


@every_inner
@every_wrapper
def test_fabric(wrapper: str, inner: str, tmp_path: Path) -> None:
    fabric_of = pytest.importorskip("lightning.fabric", reason="install the extra 'models'")
    runs = []
    for seed in (0, 9):
        fabric = fabric_of.Fabric(accelerator="cpu", devices=1)
        model = network(seed)
        model, optimizer = fabric.setup(model, wrapped(wrapper, inner, model))
        ready(optimizer)
        runs.append((fabric, model, optimizer))
    for number, (fabric, model, optimizer) in enumerate(runs):
        if number == 1:
            fabric.load(tmp_path / "half.ckpt", {"model": model, "optimizer": optimizer})
        for batch in batches()[:HALF]:
            optimizer.zero_grad()
            fabric.backward(loss_of(model, batch))
            optimizer.step()
        if number == 0:
            fabric.save(tmp_path / "half.ckpt", {"model": model, "optimizer": optimizer})
    found = contents(runs[1][1], runs[1][2])
    assert_same(found, expected(wrapper, inner, TWO_EPOCHS))


@pytest.fixture
def accelerator() -> Iterator[Any]:
    accelerate = pytest.importorskip("accelerate", reason="install the extra 'models'")
    yield accelerate.Accelerator(cpu=True)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@every_inner
@every_wrapper
def test_accelerate(wrapper: str, inner: str, tmp_path: Path, accelerator: Any) -> None:
    for seed in (0, 9):
        model = network(seed)
        model, optimizer = accelerator.prepare(model, wrapped(wrapper, inner, model))
        ready(optimizer)
        if seed == 9:
            accelerator.load_state(tmp_path)
        for batch in batches()[:HALF]:
            optimizer.zero_grad()
            accelerator.backward(loss_of(model, batch))
            optimizer.step()
        if seed == 0:
            accelerator.save_state(tmp_path)
            accelerator._models.clear()
            accelerator._optimizers.clear()
    found = contents(model, optimizer)
    assert_same(found, expected(wrapper, inner, TWO_EPOCHS))


class WithLoss(nn.Module):
    """As the Trainer wants it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.network = network(seed)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": loss_of(self.network, batch)}


def hugging_face(wrapper: str, inner: str, seed: int, folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="install the extra 'models'")
    pytest.importorskip("accelerate", reason="install the extra 'models'")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=len(TWO_EPOCHS),
        save_steps=HALF,
        per_device_train_batch_size=5,
        lr_scheduler_type="cosine",
        max_grad_norm=0.5,
        report_to=[],
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = WithLoss(seed)
    data = [{"batch": row} for row in batches()[:HALF].flatten(0, 1)]
    optimizer = wrapped(wrapper, inner, model)
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=data, optimizers=(optimizer, None)
    )


@every_inner
@every_wrapper
def test_hugging_face_trainer(wrapper: str, inner: str, tmp_path: Path) -> None:
    whole = hugging_face(wrapper, inner, 0, tmp_path)
    whole.train()
    resumed = hugging_face(wrapper, inner, 9, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{HALF}"))
    found = contents(resumed.model, resumed.optimizer)
    assert_same(found, contents(whole.model, whole.optimizer))
    assert resumed.optimizer.param_groups[0]["initial_lr"] > 0
