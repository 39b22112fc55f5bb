"""GPT-2 and Llama of Hugging Face, randomly initialised: both kinds of attention, and checkpointing."""

from __future__ import annotations

import pytest
import torch

from compatibility.state import training_state
from foreshock.isolation import isolated
from foreshock.operators import choose_backend, hessian_operator
from oracles import dense_hessian

pytest.importorskip("transformers")

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

SPECIAL = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def gpt2(attention):
    config = GPT2Config(
        n_layer=1, n_embd=4, n_head=2, n_positions=6, attn_implementation=attention, **SPECIAL
    )
    return GPT2LMHeadModel(config)


def llama(attention):
    config = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=4,
        intermediate_size=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=6,
        attn_implementation=attention,
        **SPECIAL,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant", "reentrant"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_language_models(build, attention, checkpointing):
    model = build(attention).double().train()
    model.config.use_cache = False
    plain = build(attention).double().train()
    plain.load_state_dict(model.state_dict())
    if checkpointing != "none":
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        # As fine-tuning does: reentrant checkpoints need an input with a gradient.
        model.enable_input_require_grads()
    tokens = torch.randint(3, 11, (2, 5))
    parameters = list(model.parameters())
    closure = lambda: model(input_ids=tokens, labels=tokens).loss  # noqa: E731
    closure().backward()
    torch.manual_seed(5)
    before = training_state(model)
    with isolated(model):
        choice = choose_backend(closure, parameters, model=model)
    expected = "central differences" if checkpointing == "reentrant" else "double backward"
    assert (choice.name, choice.verified) == (expected, True), choice.reason
    with isolated(model), hessian_operator(choice, closure, parameters, model=model) as hessian:
        vector = torch.randn(hessian.gradient.shape, dtype=torch.float64)
        # Dropout masks of the oracle are those of the operator.
        torch.manual_seed(5)
        with hessian_operator(choice, closure, parameters, model=model) as seeded:
            product = seeded(vector)
    assert training_state(model) == before

    def reference():
        torch.manual_seed(5)
        return plain(input_ids=tokens, labels=tokens).loss

    dense = dense_hessian(reference, list(plain.parameters()))
    error = torch.linalg.vector_norm(product - dense @ vector) / torch.linalg.vector_norm(dense @ vector)
    # Both models compute the loss from logits in float32: 1e-7, divided by ρ = 1e-2 and by the share of the
    # logits' curvature for differences.
    assert float(error) < (1e-6 if expected == "double backward" else 1e-2)
