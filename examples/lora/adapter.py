"""LoRA adapters of a frozen language model, trained over hospitals: the base stays where it is, the adapters travel.

python examples/lora/adapter.py [FOLDER]

The base model is a tiny GPT-2 that this script makes from a configuration, so that nothing is downloaded. With a
published model, save its parameters once with safetensors, give the file to every node's owner
(`fedjob node model add NAME PATH`), and to `Job(models={NAME: path})` on your side.

Needs `pip install 'fedjob[lora]'`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from fedjob import FedAvg, Job, TorchPlan

SIZE = {"vocab_size": 32, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}


class Adapter(TorchPlan):
    """Learns to go on with sequences of tokens: a LoRA adapter of each layer's attention."""

    def init_model(self, model_args):
        config = GPT2Config(**model_args["config"], bos_token_id=0, eos_token_id=0)
        base = GPT2LMHeadModel(config)
        # mapped into memory from the file that this side has: nothing of it is copied, or sent
        base.load_state_dict(self.ctx.model("tiny-gpt2"), assign=True, strict=False)
        base.tie_weights()
        lora = LoraConfig(r=model_args["rank"], target_modules=["c_attn"], fan_in_fan_out=True)
        return get_peft_model(base, lora)  # which freezes the base

    def init_optimizer(self, model, training_args):
        return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=training_args["lr"])

    def training_data(self, dataset, training_args):
        tokens, _ = dataset.arrays()
        return torch.as_tensor(tokens), torch.as_tensor(tokens)

    def training_step(self, model, batch):
        tokens, labels = batch
        return model(input_ids=tokens, labels=labels).loss


def make_base(path: Path) -> Path:
    """Write the parameters of the base model: a stand-in for a published one."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SIZE, bos_token_id=0, eos_token_id=0))
    # what is tied to another tensor is in the file once
    save_file({name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}, path)
    return path


def make_sites(folder: Path) -> dict[str, str]:
    """Write each site's sequences, which count upwards in steps of its own."""
    sites = {}
    for k, name in enumerate(("clinic-1", "clinic-2", "clinic-3"), start=1):
        starts = np.random.default_rng(k).integers(0, 32, size=(48, 1))
        tokens = (starts + k * np.arange(12)) % 32
        path = folder / f"{name}.npz"
        np.savez(path, x=tokens, y=np.zeros(48, dtype=np.int64))
        sites[name] = str(path)
    return sites


def make_job(folder: Path, **changes) -> Job:
    """Return the job, on the sites of this folder."""
    arguments = {
        "training_plan": Adapter,
        "model_args": {"config": SIZE, "rank": 4},
        "models": {"tiny-gpt2": make_base(folder / "tiny-gpt2.safetensors")},
        "training_args": {
            "lr": 0.01,
            "num_updates": 6,
            "batch_size": 16,
            "test_ratio": 0.25,
            "test_on_global_updates": True,
        },
        "data": make_sites(folder),
        "nodes": "local",
        "rounds": 3,
        "seed": 1,
        "home": folder / "home",
    }
    return Job(FedAvg(), **{**arguments, **changes})


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    result = make_job(place).run()
    travels = sum(tensor.numel() for tensor in result.params.values())
    whole = sum(parameter.numel() for parameter in result.model().parameters())
    print(f"{travels} of {whole} parameters travel; loss {result.last['loss (before)']:.3f}")
    print(f"the whole model is in {result.save(place / 'model.safetensors', force=True)}")
