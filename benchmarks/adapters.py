"""What travels, and what a researcher's process holds, where adapters of a large frozen model are trained.

python benchmarks/adapters.py [--parameters 500] [--rank 16] [--folder DIR]

A decoder of so many million parameters is made with random weights (bfloat16), as the file of a model that every site
has. Two sites in this process train adapters of its attention for two rounds. Printed are the bytes of the parameters
that a node fetches and sends in a round, as a share of the model's, and the memory of this process that no file stands
behind, beyond that of a process that has imported everything: the base is mapped from its file.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from fedjob import FedAvg, Job, TorchPlan

WIDTH, VOCABULARY, LENGTH = 1536, 4096, 8


class Adapters(TorchPlan):
    """Adapters of the attention of a decoder, beside a frozen base that is mapped from its file."""

    def init_model(self, model_args):
        width, depth, rank = model_args["width"], model_args["depth"], model_args["rank"]

        class Adapted(torch.nn.Module):
            """A frozen linear layer with an adapter."""

            def __init__(self):
                super().__init__()
                with torch.device("meta"):
                    self.base = torch.nn.Linear(width, width, bias=False, dtype=torch.bfloat16)
                self.base.requires_grad_(False)
                self.lora_A = torch.nn.Linear(width, rank, bias=False, dtype=torch.bfloat16)
                self.lora_B = torch.nn.Linear(rank, width, bias=False, dtype=torch.bfloat16)
                torch.nn.init.zeros_(self.lora_B.weight)

            def forward(self, inputs):
                return self.base(inputs) + self.lora_B(self.lora_A(inputs))

        class Block(torch.nn.Module):
            """Attention with one head, and a feed-forward layer."""

            def __init__(self):
                super().__init__()
                self.query, self.value = Adapted(), Adapted()
                with torch.device("meta"):
                    like = {"bias": False, "dtype": torch.bfloat16}
                    self.key = torch.nn.Linear(width, width, **like).requires_grad_(False)
                    self.out = torch.nn.Linear(width, width, **like).requires_grad_(False)
                    self.up = torch.nn.Linear(width, 4 * width, **like).requires_grad_(False)
                    self.down = torch.nn.Linear(4 * width, width, **like).requires_grad_(False)

            def forward(self, inputs):
                normed = torch.nn.functional.layer_norm(inputs, inputs.shape[-1:])
                query, key, value = self.query(normed), self.key(normed), self.value(normed)
                attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
                inputs = inputs + self.out(attended)
                normed = torch.nn.functional.layer_norm(inputs, inputs.shape[-1:])
                return inputs + self.down(torch.nn.functional.gelu(self.up(normed)))

        with torch.device("meta"):
            embedding = torch.nn.Embedding(model_args["vocabulary"], width, dtype=torch.bfloat16)
        embedding.requires_grad_(False)
        model = torch.nn.Sequential(embedding, *(Block() for _ in range(depth)))
        model.load_state_dict(self.ctx.model("base"), assign=True, strict=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return model

    def init_optimizer(self, model, training_args):
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)

    def training_data(self, dataset, training_args):
        tokens, _ = dataset.arrays()
        return torch.as_tensor(tokens), torch.as_tensor(tokens)

    def training_step(self, model, batch):
        tokens, labels = batch
        scores = model(tokens)[:, :-1] @ model[0].weight.T
        return torch.nn.functional.cross_entropy(scores.flatten(0, 1).float(), labels[:, 1:].flatten())


def make_base(path: Path, depth: int) -> int:
    """Write the base; return its number of parameters. No more than a tensor of each kind is in memory."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=torch.bfloat16)
        return tensor.normal_(std=1 / math.sqrt(shape[-1]), generator=generator)

    tensors = {"0.weight": made(VOCABULARY, WIDTH)}
    for k in range(1, depth + 1):
        for name in ("query.base", "value.base", "key", "out"):
            tensors[f"{k}.{name}.weight"] = made(WIDTH, WIDTH)
        tensors[f"{k}.up.weight"] = made(4 * WIDTH, WIDTH)
        tensors[f"{k}.down.weight"] = made(WIDTH, 4 * WIDTH)
    save_file(tensors, path)
    return sum(tensor.numel() for tensor in tensors.values())


def held_bytes() -> tuple[int, int]:
    """Return this process's memory without a file behind it, and the whole that is resident."""
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmRSS"):
            fields[name] = int(value.split()[0]) << 10
    return fields["RssAnon"], fields["VmRSS"]


class Watch:
    """The most that this process held since it began to be watched."""

    def __init__(self) -> None:
        self.begin = self.most = held_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most = tuple(map(max, self.most, held_bytes()))  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=500, help="of the base, in millions")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    depth = max(1, round((args.parameters * 1e6 - VOCABULARY * WIDTH) / (12 * WIDTH**2)))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        if (child := os.fork()) == 0:  # what it took to make the base is not of the researcher
            make_base(folder / "base.safetensors", depth)
            os._exit(0)
        os.waitpid(child, 0)
        base_bytes = (folder / "base.safetensors").stat().st_size
        sites = {}
        for site in ("north", "south"):
            tokens = np.random.default_rng(len(sites)).integers(0, VOCABULARY, size=(4, LENGTH))
            np.savez(folder / f"{site}.npz", x=tokens, y=np.zeros(4, dtype=np.int64))
            sites[site] = str(folder / f"{site}.npz")
        began = time.perf_counter()
        with Watch() as watch:
            job = Job(
                FedAvg(),
                training_plan=Adapters,
                model_args={"width": WIDTH, "depth": depth, "rank": args.rank, "vocabulary": VOCABULARY},
                models={"base": folder / "base.safetensors"},
                training_args={"num_updates": 1, "batch_size": 2},
                data=sites,
                nodes="local",
                rounds=2,
                seed=1,
                home=folder / "home",
            )
            job.run(progress=False)
        sent = (job.folder / "result" / "params.safetensors").stat().st_size
        once = (job.folder / "artifacts" / "frozen parameters").stat().st_size
        anonymous, resident = (most - begin for most, begin in zip(watch.most, watch.begin, strict=True))
        print(
            f"model: {base_bytes / 2e6:.0f} million parameters, {base_bytes / 1e6:.0f} MB; rank {args.rank}"
        )
        print(
            f"each way, a node and round: {sent / 1e6:.2f} MB, {100 * sent / base_bytes:.3f} % of the model"
        )
        print(f"once, a node and job: {once / 1e3:.1f} kB of frozen parameters")
        print(f"memory of researcher and both sites beyond the imports: {anonymous / 1e6:.0f} MB")
        print(f"with what is mapped of the base: {resident / 1e6:.0f} MB")
        print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
