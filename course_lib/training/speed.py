"""What makes the same training faster: memory that is kept, memory order, and half precision.

Each is asked for by name. The first two change no result beyond the order of additions; the third
does. What needs no asking lies where it acts: images that wait as bytes on the device
(`data.Batches`), Adam in one kernel (`gan_state`), no gradient that nobody uses (`gan_step`), and
the convolution that knows what an upsampled image is (`models.UpsampledConv2d`).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from course_lib.training.loop import Step
from course_lib.training.state import TrainingState

# Numbers of the parameters of `mallopt` in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def hold_memory() -> bool:
    """Let this process keep the memory that it frees, for its own next request.

    Large tensors are otherwise given back to the system after every use and fetched again, page by
    page and zeroed, in every update: with feature maps of some MiB that can be a third of the time.
    Results are the same, bit for bit. From then on the process keeps its largest size until it
    ends. It concerns the CPU alone; torch keeps the memory of a GPU anyway.

    Returns:
        Whether the C library could be asked: True on Linux with glibc, False elsewhere.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows; macOS, musl
        return False
    # No block by a mapping of its own, none given back, and growth in strides of 64 MiB.
    wishes = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
    return all([mallopt(name, value) == 1 for name, value in wishes])


def channels_last(state: TrainingState) -> TrainingState:
    """Store every weight of a convolution, averages included, with the channels innermost.

    Shapes and results stay (up to the order of additions), and feature maps follow the weights
    through the network. Convolutions on GPUs with tensor cores want this order; on a CPU measure
    it first. Call it before the first update. Returns the same state.

    Raises:
        ValueError: the optimizers have moments already, which lie in the other order.
    """
    if any(optimizer.state for optimizer in state.optimizers.values()):
        raise ValueError("channels_last comes before the first update; build the state anew.")
    for module in (*state.modules.values(), *(ema.module for ema in state.ema.values())):
        module.to(memory_format=torch.channels_last)
    return state


def in_bfloat16(step: Step) -> Step:
    """The same step with matrix products and convolutions in bfloat16; weights stay float32.

    Not the default, because it is not the same: products keep 8 bits of the mantissa where float32
    has 24, about 0.4 %. Compare samples over several seeds before you trust it. No gain but a loss
    on processors without bfloat16 products; `fast_bfloat16` says.
    """

    @functools.wraps(step)
    def lower(state: TrainingState, batch: Tensor) -> Mapping[str, Tensor]:
        # No cache: it would keep the weights of the first update of a player for the others of the
        # same step, because an optimizer does not tell it that they have moved.
        with torch.autocast(state.device.type, torch.bfloat16, cache_enabled=False):
            return step(state, batch)

    return lower


def fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware.

    CPUs: AVX512-BF16 or AMX, where torch can tell. GPUs: compute capability 8.0 or higher.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
