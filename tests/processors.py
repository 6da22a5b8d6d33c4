"""Runs the unit and contract suites as on other x86-64 processors: make test-processors.

The numerical libraries pick their kernels by the features of the processor. Variables that hide
some of them make the libraries compute as on another processor. That is slow, so only tests do it.
"""

import os
import platform
import subprocess
import sys

from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

SUITES = ("tests/unit", "tests/contract")
TWO_PROCESSES = ("-n", "2", "--dist", "loadscope")

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
    """Features that NumPy uses here beyond its baseline, to be disabled."""
    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])


def main() -> int:
    """Exit code 1 if a suite fails in some disguise; 77 if the processor is not x86-64."""
    machine = platform.machine()
    if machine not in ("x86_64", "AMD64"):
        print(f"found a {machine} processor, expected x86-64; nothing was tested", file=sys.stderr)
        return 77
    failed = []
    for name, disguise in DISGUISES.items():
        environment = os.environ | disguise
        if name == "SSE":
            environment["NPY_DISABLE_CPU_FEATURES"] = numpy_features()
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "pytest", *TWO_PROCESSES, "-m", "not slow", *SUITES]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {'; '.join(failed)}")
        return 1
    print(f"green: {'; '.join(DISGUISES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
