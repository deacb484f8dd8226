"""What training an export costs beside the forward and backward passes of its model.

    python -m benchmarks.recovery_speed SHAPE [--remove 0.25] [recover.batch_size=4 ...]

A random model of a shape (`benchmarks.device.models.SHAPES`) is cut and trained as export_subnet.py trains a pick, on
CUDA where there is one, in the dtype that a run would have; times do not depend on values. Settings are those of
export_subnet.py. Tokens a second of

    bare       forward and backward of the cut model with transformers' own language-model loss, in the run's dtype
    taught     besides, the dense model's forward pass with its probabilities: what distillation cannot do without
    recovery   whole steps of the trainer: both models, gradients, clipping, optimizer

and of recovery with activations computed again, and compiled with --compile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.device.machine import Machine
from benchmarks.device.models import SHAPES, default_space, designs_of_size, sliced_supernet
from benchmarks.device.stopwatch import wall_ms
from conf.compose import composed
from conf.settings import instantiated
from evaluators.data.shards import WholeText
from evaluators.data.sources import Source
from evaluators.data.stream import TokenStream
from evaluators.output_head import OutputHead
from evaluators.training.recipes import Recovery
from evaluators.training.recovery import measured_speed
from space.models.device import resolve_device, resolve_dtype
from space.size import removed_params

REPEATS = 3


def random_stream(vocab: int, length: int) -> TokenStream:
    """Windows of random tokens, over and over."""
    text = " ".join(map(str, torch.randint(vocab, (64 * length,)).tolist()))
    source = Source("random", (WholeText("random", text),))
    return TokenStream([source], lambda text, name: [int(token) for token in text.split()], length=length)


def main() -> None:
    """Times every way and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[*SHAPES])
    parser.add_argument("--remove", type=float, default=0.25, help="part of the decoder layers' parameters")
    parser.add_argument("--length", type=int, default=512, help="tokens in a window")
    parser.add_argument("--dtype", default="auto", help="as model.dtype")
    parser.add_argument("--compile", action="store_true", help="time recover.compile too, which takes minutes")
    parser.add_argument("--dry", action="store_true", help="a tiny model, to try the benchmark itself")
    parser.add_argument("settings", nargs="*", help="of export_subnet.py, for example recover.batch_size=8")
    arguments = parser.parse_args()
    device = resolve_device("auto")
    machine = Machine(device, resolve_dtype(arguments.dtype, device), arguments.dry)
    recover: Recovery = instantiated(composed("run_dir=none", *arguments.settings, name="export")["recover"])
    supernet = sliced_supernet(arguments.shape, machine)
    settings = recover.of_task(supernet.spec.use)
    candidate = designs_of_size(default_space(supernet.spec), arguments.remove)["mixed"]
    stream = random_stream(supernet.spec.vocab, arguments.length)
    windows = torch.stack([*islice(stream, settings.step_windows)])
    batches = windows.to(device).split(settings.together)

    def speed_of(step: Callable[[], object]) -> float:
        return windows.numel() / wall_ms(machine, step, REPEATS, warm=1) * 1e3

    student = supernet.view(candidate, own=True)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith("model.") and "embed_tokens" not in name)

    @torch.inference_mode()
    def teach(batch: Tensor) -> None:
        states = supernet.model.model(batch, use_cache=False).last_hidden_state.flatten(0, 1).float()
        OutputHead.of(supernet.model, len(states)).expected(states, exact=False)

    def step(taught: bool) -> None:
        for batch in batches:
            student(batch, labels=batch, use_cache=False).loss.backward()
            if taught:
                teach(batch)
        student.zero_grad()

    speeds = {"bare": speed_of(lambda: step(False)), "taught": speed_of(lambda: step(True))}
    ways = {"recovery": settings, "recovery, recover.checkpointing": replace(settings, checkpointing=True)}
    if arguments.compile:
        ways["recovery, recover.compile"] = replace(settings, compile=True)
    student = supernet.view(candidate)
    for way, how in ways.items():
        speeds[way] = measured_speed(student, supernet.model, stream, how)
        machine.tidy()
    table = Table("way", "tokens a second", "time against bare", "against taught")
    for way, speed in speeds.items():
        table.add_row(way, f"{speed:.0f}", f"{speeds['bare'] / speed:.2f}", f"{speeds['taught'] / speed:.2f}")
    title = (
        f"{arguments.shape}, {removed_params(supernet.spec, candidate):.0%} removed, {machine.name}, {machine.dtype}"
    )
    Console(width=120).print(f"{title}: {len(windows)} windows of {arguments.length} a step", table)


if __name__ == "__main__":
    main()
