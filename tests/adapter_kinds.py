"""A tiny GPT-2 with adapters of each kind that `peft` makes."""

from __future__ import annotations

import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from fedjob import TorchPlan

LORA = {
    "dropout": {"lora_dropout": 0.3, "use_rslora": True},
    "all biases": {"bias": "all"},
    "bias of B": {"lora_bias": True},
    "saved embedding": {"modules_to_save": ["wte"]},
    "magnitudes": {"use_dora": True},
    "embedding": {"target_modules": ["wte", "c_attn"]},
    "every layer": {"target_modules": "all-linear"},
    "two": {},
    "both of two": {},
    "no layer": {"target_modules": ["no_such"]},
    "for inference": {"inference_mode": True},
    "merged": {},
    "unloaded": {},
}
"""A kind -> what its `LoraConfig` has beside the rank and the layers."""


OTHERS = {
    "scales": lambda: IA3Config(
        target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"], fan_in_fan_out=True
    ),
    "three factors": lambda: AdaLoraConfig(
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        init_r=4,
        target_r=2,
        total_step=100,
        tinit=1,
        tfinal=1,
    ),
    "vectors": lambda: VeraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True),
    "two products": lambda: LoHaConfig(r=4, target_modules=["lm_head"]),
}
"""A kind that is no LoRA -> its configuration."""


class Adapters(TorchPlan):
    """Learns to go on with sequences of tokens, with the adapters of `model_args["kind"]`."""

    def init_model(self, model_args):  # type: ignore[no-untyped-def]
        kind = model_args["kind"]
        base = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=32,
                n_positions=16,
                n_embd=32,
                n_layer=2,
                n_head=2,
                bos_token_id=0,
                eos_token_id=0,
                tie_word_embeddings=kind != "two products",
            )
        )
        if kind in OTHERS:
            return get_peft_model(base, OTHERS[kind]())
        lora = {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}
        model = get_peft_model(base, LoraConfig(**{**lora, **LORA[kind]}))
        if kind in ("two", "both of two"):
            model.add_adapter("second", LoraConfig(**{**lora, "r": 2}))
        if kind == "both of two":
            model.base_model.set_adapter(["default", "second"])
        if kind == "merged":
            model.merge_adapter()
        return model.merge_and_unload() if kind == "unloaded" else model

    def init_optimizer(self, model, training_args):  # type: ignore[no-untyped-def]
        return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=training_args["lr"])

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        tokens, _ = dataset.arrays()
        return torch.as_tensor(tokens), torch.as_tensor(tokens)

    def training_step(self, model, batch):  # type: ignore[no-untyped-def]
        return model(input_ids=batch[0], labels=batch[1]).loss
