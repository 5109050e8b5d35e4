"""Runs the C part's tests with AddressSanitizer and UndefinedBehaviorSanitizer: reads and writes astray, overflows.

    python tools/sanitize_native.py [pytest arguments]

Needs Linux, and GCC or Clang with both sanitizers. Compiles the library with them into a copy of the package, so that
what is installed stays as it is, and runs the tests that call it, with every instruction set that this processor has.
About half a minute on two processors. Exit code 0: all tests passed, and nothing was found.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from patchbank.native import compiling  # noqa: E402

FLAGS = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
)
TESTS = ("tests/test_native.py", "tests/test_search.py", "tests/test_coreset.py", "tests/test_png.py")
# What leads through all of the C code, without what takes long, and what compiles other libraries.
CHOSEN = (
    "(test_native or every_layout or ties or any_size or excluded or outlier or round_limit or measured_in_c "
    "or bit_for_bit) "
    "and not (NumPy or 40000 or 9000 or 6000 or library_of or does_not_say or packed)"
)


def runtime(program: str) -> str:
    """The sanitizer's own library, which has to be loaded before Python."""
    for name in ("libasan.so", f"libclang_rt.asan-{platform.machine()}.so", "libclang_rt.asan.so"):
        found = subprocess.run([program, f"-print-file-name={name}"], capture_output=True, text=True, check=True)  # noqa: S603
        if Path(found.stdout.strip()).is_absolute():
            return found.stdout.strip()
    raise SystemExit(f"{program} has no AddressSanitizer; on Debian: apt-get install libasan8")


def main() -> int:
    program = compiling.compiler()
    if sys.platform != "linux" or program is None:
        print("needs Linux and a C compiler (cc, gcc, clang)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "patchbank"
        shutil.copytree(ROOT / "src/patchbank", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        shared = ["-shared-libasan"] if "clang" in Path(program).name else []
        problem = compiling.compile_library(package / "native", flags=[*FLAGS, *shared])
        if problem:
            print(problem, file=sys.stderr)
            return 2
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PATCHBANK_NATIVE"},
            "LD_PRELOAD": runtime(program),
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python's own leaks are not ours
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONPATH": folder,
            "PYTHONMALLOC": "malloc",  # so that reads past a Python object are seen too
        }
        check = (
            "import patchbank, sys; from patchbank import native; "
            "sys.exit(not (patchbank.__file__.startswith(sys.argv[1]) and native.available()))"
        )
        subprocess.run([sys.executable, "-c", check, str(package)], env=environment, check=True)  # noqa: S603
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--capture=sys",
            "-p",
            "no:cacheprovider",
            "-m",
            "not realdata",
        ]
        command += ["-k", CHOSEN, *(str(ROOT / name) for name in TESTS), *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
