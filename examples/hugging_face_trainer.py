"""Fine-tune a Hugging Face model overparameterized, and save it as a plain one.

A toy GPT-2 built from a config (no download) learns to count, with the Trainer
untouched. Run ``python examples/hugging_face_trainer.py``; it needs transformers and accelerate.
"""

from __future__ import annotations

import tempfile

import torch
import transformers
from torch.utils.data import Dataset

from overparam.reparam import collapsed, overparameterize, plan_overparameterization

STEPS = 100


class Counting(Dataset[dict[str, torch.Tensor]]):
    """Sixteen numbers in order, modulo 20."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(16) + index) % 20
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    """Overparameterize, train, save plain, load in plain transformers and compare."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=16, n_embd=32, n_layer=2, n_head=4, use_cache=False
    )
    model = transformers.GPT2LMHeadModel(config)
    print(plan_overparameterization(model, targets="all"))
    overparameterize(model, depth=2, targets="all")
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            logging_steps=20,
            # Checkpoints on the way would hold the factors, and resume exactly;
            # overparam.collapse_state_dict makes a plain one of such a file.
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Counting())
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        # The saved folder is an ordinary checkpoint, for anyone without this package.
        with collapsed(model):
            model.save_pretrained(folder)
        plain = transformers.GPT2LMHeadModel.from_pretrained(folder)
    tokens = Counting()[0]["input_ids"][None]
    with torch.no_grad():
        gap = (plain(tokens).logits - model.eval()(tokens).logits).abs().max()
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; plain checkpoint differs by {float(gap):.1e}")
    assert losses[-1] < 0.5 * losses[0]
    assert float(gap) < 1e-4


if __name__ == "__main__":
    main()
