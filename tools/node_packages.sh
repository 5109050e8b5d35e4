#!/usr/bin/env bash
# Gets what tests need from npm, into a folder (default: ~/.cache/patchbank/node). For `patchbank export`: ONNX Runtime for
# Node.js and for browsers, and its C++ headers, which one package for Unity has. For the pages of the service: axe-core,
# which looks for barriers. Tests are skipped without them.
set -euo pipefail

ORT=1.30.0 HEADERS=0.4.9 AXE=4.14.1
folder=${1:-${PATCHBANK_NODE:-$HOME/.cache/patchbank/node}}
done_file=$folder/.done-$ORT-$HEADERS-$AXE
if [ -f "$done_file" ]; then exit 0; fi
mkdir -p "$folder/include"
cd "$folder"
# --ignore-scripts: the package of Node.js would look for CUDA, and download it
npm install --ignore-scripts --no-audit --no-fund --no-save "onnxruntime-node@$ORT" "onnxruntime-web@$ORT" "axe-core@$AXE"
archive=$(npm pack --silent "com.github.asus4.onnxruntime@$HEADERS")
tar xzf "$archive" -C include --wildcards --strip-components 7 \
  'package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers/*'
rm "$archive"
touch "$done_file"
