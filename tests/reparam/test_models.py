"""Models that nobody here wrote: same logits, a training step, all keys as before."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.there_and_back import there_and_back
from torch import nn

from overparam.reparam import collapse, collapse_state_dict, overparameterize

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed; install the extra 'models'"
)
safetensors = pytest.importorskip("safetensors.torch", reason="comes with transformers")

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


def _mixtral() -> nn.Module:
    """Its experts are batches of matrices in one tensor each."""
    config = transformers.MixtralConfig(
        vocab_size=50, num_key_value_heads=2, num_local_experts=4, use_cache=False, **SMALL
    )
    return transformers.MixtralForCausalLM(config)


def _t5() -> nn.Module:
    """One embedding at three places, and a head of its own."""
    config = transformers.T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, use_cache=False
    )
    return transformers.T5ForConditionalGeneration(config)


CASES = {
    "gpt2": (_gpt2, TOKENS),
    "bert": (_bert, TOKENS),
    "llama": (_llama, TOKENS),
    "vit": (_vit, IMAGES),
    "convnext": (_convnext, IMAGES),
    "mixtral": (_mixtral, TOKENS),
    "t5": (_t5, {**TOKENS, "decoder_input_ids": TOKENS["input_ids"]}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("targets", ["all", "all-linear"])
def test_transformers(case: str, targets: str) -> None:
    make, inputs = CASES[case]
    there_and_back(make, lambda model: model(**inputs).logits, targets)


class Counting(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(8) + index) % 50
        return {"input_ids": tokens, "labels": tokens}


def _trainer(folder: Path) -> Any:
    """Training of a GPT-2 whose head is tied to its embedding, with a checkpoint on the way."""
    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    model = overparameterize(_gpt2(), targets="all")
    return transformers.Trainer(model=model, args=arguments, train_dataset=Counting())


def test_trainer_saves_tied_products_and_resumes_exactly(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed; install 'models'")
    whole = _trainer(tmp_path)
    whole.train()
    saved = safetensors.load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    plain = collapse_state_dict(saved)
    resumed = _trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for first, second in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(first, second)
    # transformers' own file of the plain model has the same keys: the head is left out.
    collapse(whole.model).save_pretrained(tmp_path / "plain")
    expected = safetensors.load_file(tmp_path / "plain" / "model.safetensors")
    assert sorted(plain) == sorted(expected)
    for key, value in expected.items():
        assert torch.equal(plain[key], value), key


@pytest.mark.parametrize("targets", ["all", "all-linear"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [60, 40])
def test_embeddings_are_resized_and_weights_tied(targets: str, tied: bool, size: int) -> None:
    def make() -> Any:
        torch.manual_seed(0)
        model = _gpt2()
        model.config.tie_word_embeddings = tied
        return transformers.GPT2LMHeadModel(model.config).eval()

    plain, model = make(), make()
    overparameterize(model, targets=targets)
    for each in (plain, model):
        torch.manual_seed(1)
        each.resize_token_embeddings(size, mean_resizing=False)
    inputs = {"input_ids": torch.tensor([[1, 5, 7, 2]])}
    expected, found = (each(**inputs).logits for each in (plain, model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    model.tie_weights()
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
    one = {id(p) for p in model.transformer.wte.parameters()}
    assert one.isdisjoint(map(id, model.lm_head.parameters())) != tied
    found.sum().backward()
    collapse(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert model.lm_head.weight.shape == plain.lm_head.weight.shape


def test_a_weight_that_is_tied_beside_a_bias_is_not_resized_as_a_product() -> None:
    """transformers looks for the plain names of both, and would stop half-way."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(intermediate_size=8, vocab_size=11, **sizes)
    model = transformers.BertForMaskedLM(config).eval()
    overparameterize(model, targets="all")
    model = copy.deepcopy(model)
    inputs = {"input_ids": torch.tensor([[1, 2]])}
    before, names = model(**inputs).logits, list(model.state_dict())
    for method in (lambda: model.resize_token_embeddings(14), model.tie_weights):
        with pytest.raises(RuntimeError, match=r"BertForMaskedLM ties a product .* collapse"):
            method()
    assert list(model.state_dict()) == names
    assert torch.equal(model(**inputs).logits, before)
    collapse(model)
    model.resize_token_embeddings(14, mean_resizing=False)
    assert model(**inputs).logits.shape[-1] == 14
