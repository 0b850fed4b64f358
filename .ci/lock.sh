#!/usr/bin/env bash
# Write the packages of the images with their hashes, from pyproject.toml and constraints.txt; run it after a change of
# either. torch is left out: its CPU build has another index and other hashes than its CUDA build, so the images install
# it by its version alone, after everything that has a hash.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/uv"
"$tools/uv/bin/pip" install --quiet --disable-pip-version-check uv==0.9.30

lock() { # FILE OPTIONS…: one file of exact versions, for every platform and Python that the project supports
  local file=$1
  shift
  printf '# Made by .ci/lock.sh: pip install --require-hashes -r %s\n' "$file" >"$tools/lock"
  "$tools/uv/bin/uv" pip compile --quiet pyproject.toml -c constraints.txt --generate-hashes --universal \
    --python-version 3.11 --no-annotate --no-header "$@" >>"$tools/lock"
  mv "$tools/lock" "$file"
}

left_out=()
for name in torch triton setuptools sympy mpmath networkx cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas \
  nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand \
  nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 \
  nvidia-nvtx; do
  left_out+=(--no-emit-package "$name")
done
lock docker/node.requirements.txt --extra oidc --extra postgresql
lock docker/worker.requirements.txt --extra worker "${left_out[@]}"
