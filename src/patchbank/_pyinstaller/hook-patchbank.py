"""PyInstaller runs this where an application imports patchbank. It reads the names below."""

from __future__ import annotations

from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules, copy_metadata

from patchbank.backbones.zoo import PackagedWeights, zoo

# Packages that hold the weights of networks: their files are read, and they are never imported.
_weights = [row.weights for row in zoo() if isinstance(row.weights, PackagedWeights)]
_weights = [each for each in _weights if find_spec(each.module)]  # some come with an extra only

# Modules that are imported by name (`import patchbank` loads them late); faiss, where its extra is installed.
hiddenimports = [
    *collect_submodules("patchbank", filter=lambda name: not name.startswith("patchbank._pyinstaller")),
    *(each.module for each in _weights),
    *(["faiss"] if find_spec("faiss") else []),
]
datas = [
    *collect_data_files("patchbank", excludes=["**/*.c", "**/*.h"]),
    *(file for each in _weights for file in collect_data_files(each.module, includes=[each.path])),
    *copy_metadata("patchbank"),
]
binaries = collect_dynamic_libs("patchbank", search_patterns=["*.so"])  # the compiled part, where it was built
# Exporting networks needs PyTorch, and is done where models are made: a line's application would grow by gigabytes. One
# that wants tables imports pandas itself.
excludedimports = ["torch", "timm", "pandas"]
