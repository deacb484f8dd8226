"""UserError: a mistake that the user can mend; entry scripts print its message and stop. ShapeError: another pick.

What goes wrong in a device, such as memory that runs out, is the user's to mend too; see `mendable`.
"""

# Classes of such errors by name, as nothing here knows torch, and how messages of others begin.
_OF_DEVICES = ("torch.OutOfMemoryError", "torch.AcceleratorError", "builtins.MemoryError")
_MESSAGES = ("CUDA error", "CUDA out of memory", "cuDNN error")
_ON_THE_HOST = "DefaultCPUAllocator: can't allocate memory"


class UserError(Exception):
    """Its message says what was expected, what came, and what to do."""


class ShapeError(UserError):
    """A pick whose shape a format or engine does not hold, though it may hold others of the same model."""


def mendable(error: Exception) -> UserError | None:
    """What a user is told of an exception; None where it is none that they can mend.

    An error of the device becomes a UserError: whatever was asked then is not to blame, and may be asked again.
    """
    if isinstance(error, UserError):
        return error
    names, text = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}, str(error)
    if names.isdisjoint(_OF_DEVICES) and not text.startswith(_MESSAGES) and _ON_THE_HOST not in text:
        return None
    first = text.partition("\n")[0].strip().rstrip(".")
    return UserError(
        f"Expected the device to do what it was asked, got {type(error).__name__}: {first}. Ask it for less at once "
        "(evaluators.batch_size, latency.batch_size, data.length, recover.batch_size), end what else uses it, or name "
        "another (model.device). Nothing is stored of what was at work; the same command goes on from what is."
    )
