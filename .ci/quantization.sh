#!/bin/sh
# Run the tests of weights in 8 and 4 bits, on the CPU, with bitsandbytes (43 MB).
#
#   .ci/quantization.sh [FOLDER]      with the project's environment active
#
# FOLDER keeps the package, outside the environment: no other test should see it.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.venv/quantization}

[ -d "$folder/bitsandbytes" ] || python -m pip install --quiet --disable-pip-version-check \
    --no-deps --only-binary :all: --target "$folder" -c constraints.txt bitsandbytes
PYTHONPATH=$(cd "$folder" && pwd)
export PYTHONPATH
python -W ignore -c 'import bitsandbytes, torch; print("bitsandbytes", bitsandbytes.__version__, "torch", torch.__version__)'
python -m pytest -q -p no:cacheprovider \
    tests/unit/test_engines.py tests/unit/test_chexfract.py -k 'quantization or fewer_bits'
