"""Timing on a GPU: the right device, and steps as CUDA graphs, so that the card is timed and not Python's launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def at(device: torch.device) -> AbstractContextManager[None]:
    """A context in which a device is the current one, for which timers wait and on which graphs are replayed."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def captured(step: Callable[[], object], stream: torch.cuda.Stream) -> Iterator[Callable[[], None]]:
    """A step as a CUDA graph of the current device, replayed by a call; its memory is given back at the end.

    Args:
        step: Does the same work each time, on tensors that stay where they are.
        stream: A stream of the device beside the current one, on which the step is warmed and captured.

    Raises:
        RuntimeError: The step does what no graph can hold, such as waiting for the device.
    """
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        step()  # libraries set themselves up in it, which no graph can hold
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        # other threads may use the device meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = step()
        yield graph.replay
        torch.cuda.synchronize()
        del outputs
    finally:
        torch.cuda.set_stream(current)  # a capture that fails leaves its own
        graph.reset()


def refusal(step: Callable[[], object], stream: torch.cuda.Stream) -> str | None:
    """Why a step cannot be a CUDA graph, in one line; None where it can.

    Raises:
        torch.OutOfMemoryError: There is no room for it.
        torch.AcceleratorError: The device does not answer any more after the attempt.
    """
    try:
        with captured(step, stream) as replay:
            replay()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        torch.cuda.synchronize()  # which raises again where the device is lost
        first = error.__context__ or error  # a capture that is given up fails once more
        return f"{type(first).__name__}: {' '.join(str(first).partition('CUDA kernel errors')[0].split())}".rstrip(". ")
    return None
