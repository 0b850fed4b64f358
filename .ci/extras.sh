#!/bin/sh
# Run the tests that need packages outside the environment: weights in 8 and 4 bits on the CPU
# (bitsandbytes, 43 MB; torchao, 3 MB), and the chat engine against a real `transformers serve` (openai).
#
#   .ci/extras.sh [FOLDER]      with the project's environment active
#
# FOLDER keeps the packages: no other test should see them.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.venv/extras}

for package in bitsandbytes torchao; do
    [ -d "$folder/$package" ] || python -m pip install --quiet --disable-pip-version-check \
        --no-deps --target "$folder" -c constraints.txt "$package"
done
PYTHONPATH=$(cd "$folder" && pwd)
export PYTHONPATH
python -W ignore -c 'import bitsandbytes, openai; print("bitsandbytes", bitsandbytes.__version__, "openai", openai.__version__)'
python -m pytest -q -p no:cacheprovider -k 'quantization or torchao or fewer_bits or transformers_serve' \
    tests/unit/test_engines.py tests/unit/test_chexfract.py tests/unit/test_chat_server.py
