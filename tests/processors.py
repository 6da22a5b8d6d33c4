"""Runs the unit and contract suites in the disguise of other x86-64 processors: make test-processors.

The numerical libraries pick their kernels by what the processor can do. Told that it can do less,
they compute as on an older or another one. A disguise is worn by tests only: it makes things slow.
"""

import os
import platform
import subprocess
import sys

from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

SUITES = ("tests/unit", "tests/contract")
TWO = ("-n", "2", "--dist", "loadscope")

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
SSE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}
DISGUISES = {
    "AVX2, Intel": {**AVX2, "OPENBLAS_CORETYPE": "Haswell"},
    "AVX2, AMD": {**AVX2, "OPENBLAS_CORETYPE": "Zen"},
    "SSE": {**SSE, "OPENBLAS_CORETYPE": "Nehalem"},
}


def numpy_features() -> str:
    """What NumPy would use here beyond its baseline, for it to leave alone."""
    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])


def main() -> int:
    """Exit code 1 if a suite fails in some disguise; 77 where there is nothing to disguise."""
    if platform.machine() not in ("x86_64", "AMD64"):
        print(
            f"{platform.machine()} is no x86-64 processor: it cannot be disguised", file=sys.stderr
        )
        return 77
    failed = []
    for name, disguise in DISGUISES.items():
        environment = os.environ | disguise
        if name == "SSE":
            environment["NPY_DISABLE_CPU_FEATURES"] = numpy_features()
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "pytest", *TWO, "-m", "not slow", *SUITES]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    print(f"failed: {'; '.join(failed)}" if failed else f"green: {'; '.join(DISGUISES)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
