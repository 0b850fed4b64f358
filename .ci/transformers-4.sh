#!/bin/sh
# Run the engines' tests on transformers 4.48.3 as well, and both releases side by side.
#
#   .ci/transformers-4.sh [FOLDER]      with the project's environment active
#
# FOLDER keeps the second environment. It holds only what differs: torch, numpy and the rest are
# taken from the active environment, after its own packages.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.venv/transformers-4}
python=$(command -v python)

if ! "$folder/bin/python" -c 'import transformers; assert transformers.__version__ == "4.48.3"' 2>/dev/null; then
    "$python" -m venv --clear "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check requests
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        'transformers==4.48.3' 'tokenizers>=0.21,<0.22' 'huggingface-hub>=0.24,<1.0'
    own=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # at the end of sys.path: what is installed here comes first
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$own/zz-active.pth"
    pwd >>"$own/zz-active.pth"
fi

second=$(cd "$folder/bin" && pwd)/python
"$second" -c 'import torch, transformers; print("second environment: transformers", transformers.__version__, "torch", torch.__version__)'
OTHER_PYTHON=$python "$second" -m pytest -q -p no:cacheprovider -o filterwarnings=default \
    tests/unit/test_engines.py tests/unit/test_chexfract.py tests/unit/test_chat_server.py
OTHER_PYTHON=$second "$python" -m pytest -q -p no:cacheprovider \
    tests/unit/test_engines.py -k side_by_side
