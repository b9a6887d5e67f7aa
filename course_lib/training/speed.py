"""What makes the same training faster: memory that is kept or written over, its order, precision.

Each is asked for by name. Only half precision changes a result beyond the order of additions. What
needs no asking lies where it acts: images that wait as bytes on the device (`data.Batches`), Adam
in one kernel (`gan_state`), no gradient that nobody uses (`gan_step`), and the convolution that
knows what an upsampled image is (`models.UpsampledConv2d`).
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import shutil
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from course_lib.models import as_products
from course_lib.training.loop import Step
from course_lib.training.state import TrainingState

# Numbers of the parameters of `mallopt` in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
# Of madvise, in Linux's mman.h; and sizes in bytes.
_MADV_HUGEPAGE, _HUGE_PAGE, _HUGE_RANGE = 14, 2**21, 2**30


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
    held = all([mallopt(name, value) == 1 for name, value in wishes])
    if held:
        _ask_for_huge_pages()
    return held


def _ask_for_huge_pages() -> None:
    """Pages of 2 MiB for the next GiB of what `malloc` hands out, where the system has them.

    They are fetched at once and found faster. The GiB is a range of addresses: it takes no memory
    until it is used. A refusal, of the range or of the pages, leaves everything as it was.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(_HUGE_RANGE)
    if start is None:
        return
    aligned = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(aligned, _HUGE_RANGE - _HUGE_PAGE, _MADV_HUGEPAGE)
    libc.free(start)


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


# Their backward passes need what went in and the weights, and never what came out.
_OUTPUT_UNUSED = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
)


def in_place_activations(state: TrainingState) -> TrainingState:
    """Let each ReLU and LeakyReLU write over its input, where nothing else needs that input.

    That is inside an `nn.Sequential`, after a linear layer, a convolution or a batch norm. One
    feature map less per activation is written and fetched; results are the same, bit for bit.
    Returns the same state.
    """
    for module in (*state.modules.values(), *(ema.module for ema in state.ema.values())):
        for chain in module.modules():
            if type(chain) is not nn.Sequential:
                continue  # a class of its own may use its parts as it likes
            for before, layer in itertools.pairwise(chain):
                rising = isinstance(layer, nn.ReLU) or (
                    isinstance(layer, nn.LeakyReLU) and layer.negative_slope > 0
                )
                if rising and isinstance(before, _OUTPUT_UNUSED):
                    layer.inplace = True
    return state


def convolutions_as_products(state: TrainingState, **limits: float) -> TrainingState:
    """Compute convolutions as products of matrices where that pays on a CPU.

    That is on maps of at most 4×4 places with hundreds of channels, and where a single channel
    comes out; above all with `channels_last`. Weights and results stay (up to the order of
    additions). `limits` as in `models.as_products`. Returns the same state.
    """
    for module in (*state.modules.values(), *(ema.module for ema in state.ema.values())):
        as_products(module, **limits)
    return state


def compile_networks(state: TrainingState) -> TrainingState:
    """Let torch's compiler write kernels for both passes through each network (`torch.compile`).

    The first update then takes seconds to minutes. Measure before you trust it with a run: on a CPU
    it can lose, see data/results/benchmark_training_tricks.json. Results stay (up to the order of
    additions). It knows no second derivatives, so neither gradient penalty nor R1. Returns the same
    state.

    Raises:
        ValueError: the networks lie on a CPU, and there is no C++ compiler for it.
    """
    if state.device.type == "cpu" and compiler() is None:
        raise ValueError(
            "torch.compile needs a C++ compiler on a CPU and finds none: install one (Debian and "
            "Ubuntu: apt install g++; macOS: xcode-select --install), or leave this trick out."
        )
    for module in state.modules.values():
        if any(True for _ in module.parameters()):
            module.compile()
    return state


def compiler() -> str | None:
    """Path of the C++ compiler that torch.compile would call, if there is one."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def in_bfloat16(step: Step) -> Step:
    """The same step with matrix products and convolutions in bfloat16; weights stay float32.

    Not the default, because it is not the same: products keep 8 bits of the mantissa where float32
    has 24, about 0.4 %. Compare samples over several seeds before you trust it. No gain but a loss
    on processors without fast bfloat16 products; `fast_bfloat16` says.
    """

    @functools.wraps(step)
    def lower(state: TrainingState, batch: Tensor) -> Mapping[str, Tensor]:
        # No cache: it would keep the weights of the first update of a player for the others of the
        # same step, because an optimizer does not tell it that they have moved.
        with torch.autocast(state.device.type, torch.bfloat16, cache_enabled=False):
            return step(state, batch)

    return lower


def fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, and faster than float32 ones.

    GPUs: compute capability 8.0 or higher. CPUs: AMX; or AVX512-BF16 where a product says so. That
    instruction alone promises nothing: data/results/benchmark_training.md has such a processor.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    if any(capabilities.get(name) for name in ("amx_bf16", "amx_tile")):
        return True
    return bool(capabilities.get("avx512_bf16")) and bfloat16_gain() > 1


@functools.cache
def bfloat16_gain(size: int = 512) -> float:
    """Time of a product of two float32 matrices [size, size] over that in bfloat16, on the CPU.

    Measured once, in some hundredths of a second.
    """
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(7):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    return seconds[0] / seconds[1]
