"""What there is on this machine for a run: memory, disk, and speeds of a made-up layer, measured in some seconds."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark.utils.timer import timer

from evaluators.planning.times import LEARNED, Pace
from space.spec import ModelSpec

_LOOK_S = 0.3  # that each of them is looked at
_TOKENS = 512  # of a pass
_WIDEST = 4096  # residual stream of the layer, and all of its heads together; wider ones are no slower an operation
_DEEPEST = 16384  # channels of its MLP, likewise
_EXACT = 4096  # rows and columns of a float32 product, at most
_READ_BYTES = 1 << 28  # of weights that one token goes through, so that no cache holds them


def own_bytes() -> int:
    """Memory of this process, each page counted once; at its most where the system says no more."""
    file = Path("/proc/self/smaps_rollup")
    if file.exists():
        lines = file.read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def free_host_bytes() -> int | None:
    """Memory of the host that a new process could have; None where the system does not say."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else []
    free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return free[0] if free else None


def free_device_bytes(device: torch.device) -> int | None:
    """Memory of the device that is free; None where that is the host."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def measured_pace(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Pace:
    """What the device does in a second, of what a decoder layer of the model's shapes has.

    Args:
        spec: The model.
        dtype: What it runs in.
        device: Where.
    """
    layer = _Layer(spec, dtype, device)
    learning = LEARNED * layer.passed * _rate(layer.learn)  # first: what memory is asked for is there then
    with torch.inference_mode():
        passing = layer.passed * _rate(layer.run)
        weight = layer.weights["up"]
        small = torch.ones(min(len(weight), _EXACT), min(weight.shape[1], _EXACT), device=device)
        wide = torch.ones(_TOKENS, small.shape[1], device=device)
        exact = 2 * wide.numel() * len(small) * _rate(lambda: wide @ small.T)
        copies, row = [weight.clone() for _ in range(max(1, _READ_BYTES // weight.nbytes))], layer.stream[0, :1]
        read = sum(copy.nbytes for copy in copies) * _rate(lambda: [row @ copy.T for copy in copies])
        moved = 0.0
        if device.type != "cpu":
            home = weight.cpu()
            moved = home.nbytes * _rate(lambda: home.to(device))
    return Pace(passing, learning, exact, read, moved)


class _Layer:
    """A decoder layer of made-up weights: norms, rotary embedding, attention and an MLP, of the shapes of a model's.

    Attributes:
        weights: By name.
        stream: What it reads, (1, tokens, hidden).
        passed: Operations of products in a forward pass.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        """As wide as the model's, up to where a wider one is no faster."""
        hidden, channels = min(spec.hidden, _WIDEST), min(spec.expert_channels or spec.mlp_channels, _DEEPEST)
        self._width, most = spec.head_dim, max(1, _WIDEST // spec.head_dim)
        kv_heads = min(spec.kv_heads, most)
        heads = kv_heads * max(1, min(spec.query_heads, most) // kv_heads)
        ins = {"queries": heads, "keys": kv_heads, "values": kv_heads}
        shapes = {name: (count * spec.head_dim, hidden) for name, count in ins.items()}
        shapes |= {"output": (hidden, heads * spec.head_dim), "up": (channels, hidden), "down": (hidden, channels)}
        shapes |= {"gate": (channels, hidden)} if spec.gated else {}

        def made(*shape: int) -> Tensor:
            return torch.full(shape, 0.01, dtype=dtype, device=device)

        self.weights = {name: made(*shape).requires_grad_() for name, shape in shapes.items()}
        self.stream, self._angle, self._norm = made(1, _TOKENS, hidden), made(_TOKENS, spec.head_dim), made(hidden)
        scores = 2 * heads * spec.head_dim * _TOKENS / 2  # the average token sees half of them
        self.passed = 2 * _TOKENS * (sum(weight.numel() for weight in self.weights.values()) + scores)

    def learn(self) -> None:
        """A forward and a backward pass."""
        torch.autograd.grad(self.run().float().sum(), [*self.weights.values()])

    def run(self) -> Tensor:
        """A forward pass."""
        normed = self._normed(self.stream)
        queries, keys, values = (self._heads(normed, name) for name in ("queries", "keys", "values"))
        repeated = queries.shape[1] // keys.shape[1]
        keys, values = (heads.repeat_interleave(repeated, 1) for heads in (self._turned(keys), values))
        attended = F.scaled_dot_product_attention(self._turned(queries), keys, values, is_causal=True)
        stream = self.stream + F.linear(attended.transpose(1, 2).flatten(2), self.weights["output"])
        normed = self._normed(stream)
        inner = F.silu(F.linear(normed, self.weights["up"]))
        if "gate" in self.weights:
            inner = inner * F.linear(normed, self.weights["gate"])
        return stream + F.linear(inner, self.weights["down"])

    def _normed(self, stream: Tensor) -> Tensor:
        exact = stream.float()
        return self._norm * (exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6)).to(stream.dtype)

    def _heads(self, normed: Tensor, name: str) -> Tensor:
        return F.linear(normed, self.weights[name]).unflatten(-1, (-1, self._width)).transpose(1, 2)

    def _turned(self, heads: Tensor) -> Tensor:
        first, second = heads.chunk(2, -1)
        return heads * self._angle + torch.cat((-second, first), -1) * self._angle


def _rate(work: Callable[[], object]) -> float:
    """How often something is done in a second, warm."""
    work()
    begun, count = timer(), 0
    while (seconds := timer() - begun) < _LOOK_S:
        work()
        count += 1
    return count / seconds
