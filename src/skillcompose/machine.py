"""Cores, threads, bf16 and allocator of this machine: loading a model asks, `skillcompose doctor` prints."""

import os
import platform
import re
import timeit
from functools import cache, partial
from pathlib import Path

import joblib
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from skillcompose.errors import ModelError
from skillcompose.run import package_versions

ALLOCATORS = ("tcmalloc", "tcmalloc_minimal", "jemalloc", "mimalloc")
SIZE = 512  # of the matrices that are multiplied to compare dtypes


def cores() -> int:
    """Physical cores that this process may use: affinity and a container's quota count, which torch does not see."""
    return int(joblib.cpu_count(only_physical_cores=True))


def use_cores() -> None:
    """One number of threads for torch, BLAS and FAISS, which bring a pool each; `OMP_NUM_THREADS` decides instead."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
        threadpool_limits(cores())


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_dtype() -> torch.dtype:
    """bf16 where it is faster, measured on a CPU: AMX and AVX512-BF16 multiply it, elsewhere it is emulated.

    `SKILLCOMPOSE_DTYPE` (float32 or bfloat16) decides instead, so that machines differ in their rounding alone.
    """
    asked = os.environ.get("SKILLCOMPOSE_DTYPE")
    if asked:
        if asked not in ("float32", "bfloat16"):
            raise ModelError(
                f"SKILLCOMPOSE_DTYPE is {asked!r}; set float32 or bfloat16, or unset it to have it measured"
            )
        found: torch.dtype = getattr(torch, asked)
        return found
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if matmul_rate(torch.bfloat16) > 1.4 * matmul_rate(torch.float32) else torch.float32


def matmul_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of square products in `dtype`, the best of five."""
    a, b = torch.ones(SIZE, SIZE, dtype=dtype), torch.ones(SIZE, SIZE, dtype=dtype)
    torch.mm(a, b)
    return 2 * SIZE**3 * 4 / min(timeit.repeat(partial(torch.mm, a, b), number=4, repeat=5)) / 1e9


def processor() -> str:
    """Its name and the instructions that multiply bf16, which decide most timings."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.+)", info)
    bf16 = "AMX" if "amx_tile" in info else "AVX512-BF16" if "avx512_bf16" in info else "no bf16"
    return f"{name.group(1) if name else platform.processor()}, {cores()} cores, {bf16}"


def memory() -> float:
    """GiB of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def allocator() -> str:
    """The C allocator of this process."""
    maps = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
    loaded = next((name for name in ALLOCATORS if f"lib{name}" in maps), None)
    return f"{loaded}, preloaded" if loaded else "the system's"


def findings() -> dict[str, str]:
    """What `skillcompose doctor` prints, by name."""
    import faiss
    from huggingface_hub.constants import HF_HUB_OFFLINE

    from skillcompose.builtin import BUILTIN, cache_folder

    use_cores()
    rates = {name: matmul_rate(getattr(torch, name)) for name in ("float32", "bfloat16")}
    pools = ", ".join(f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpool_info())
    models = [f"{name}{'' if (cache_folder() / 'models' / name).is_dir() else ' (not fetched)'}" for name in BUILTIN]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": processor(),
        "gpu": ", ".join(gpus) or "none",
        "memory": f"{memory():.0f} GiB",
        "threads": f"torch {torch.get_num_threads()}, FAISS {faiss.omp_get_max_threads()} ({pools})",
        "products": ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()),
        "base model": f"loaded in {str(fast_dtype()).removeprefix('torch.')}",
        "allocator": allocator(),
        "built-in models": f"{', '.join(models)} in {cache_folder()}",
        "model hub": "off (HF_HUB_OFFLINE)" if HF_HUB_OFFLINE else "asked for what is no folder and no built-in",
        "packages": ", ".join(f"{name} {found}" for name, found in package_versions().items()),
    }
