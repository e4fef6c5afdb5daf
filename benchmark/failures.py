"""Why a call into a plugin failed, in one line, whatever the plugin raised."""

import traceback

import torch

_LONGEST_REASON = 500
_CPU_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The allocator of the CPU has no class of its own for it.
    return isinstance(error, RuntimeError) and any(text in clean_reason(error) for text in _CPU_OUT_OF_MEMORY)


def describe_error(error: BaseException) -> str:
    """Return an exception in one line: its type, message, and the last line of code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (in `{frames[-1].name}`, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {clean_reason(error)}{where}"


def clean_reason(error: BaseException) -> str:
    """Return an exception's message as one short line of printable text, whatever a plugin put into it."""
    try:
        message = str(error)
    # The message of a foreign exception is foreign code as well, and may even end the process.
    except BaseException as failure:  # noqa: BLE001
        message = f"its message cannot be read: {type(failure).__name__}"
    return printable(message, _LONGEST_REASON)


def printable(text: str, longest: int) -> str:
    """Return a text as one short line of characters that can be printed."""
    begin = text[: 10 * longest].encode("utf-8", "replace").decode()
    return " ".join("".join(c if c.isprintable() else " " for c in begin).split())[:longest]
