"""A fuzzer for all that patchbank reads: model files, checkpoints, networks, images, CSV, TOML, `.partial` files.

    python -m tests.fuzz --seconds 60 --seed 1 [--target models] [--keep DIR]     (from the project's root)
    python -m tests.fuzz --target models --case 4711                              (one case again, with its traceback)

Each case is made from its number alone, so that it can be made again. It runs in a child process. What may come out is
a PatchbankError or a result; any other exception, more than 1 GB of memory, more than 20 s, or the end of the process
is a finding.
"""
