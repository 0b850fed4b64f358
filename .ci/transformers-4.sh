#!/bin/sh
# Run the engines' tests on transformers 4.48.3 as well, and engines side by side, each in the
# release of transformers that its model was made for.
#
#   .ci/transformers-4.sh [FOLDER]      with the project's environment active
#
# FOLDER keeps the other environments. Each holds only what differs: torch, numpy and the rest are
# taken from the active environment, after its own packages.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.venv/transformers-4}
python=$(command -v python)

# environment VERSION TOKENIZERS: the interpreter $folder/VERSION/bin/python has that release
environment() {
    own=$folder/$1
    if ! "$own/bin/python" -c "import transformers; assert transformers.__version__ == '$1'" 2>/dev/null; then
        "$python" -m venv --clear --without-pip "$own"
        "$python" -m pip --python "$own/bin/python" install --quiet --disable-pip-version-check requests
        "$python" -m pip --python "$own/bin/python" install --quiet --disable-pip-version-check \
            --no-deps --only-binary :all: "transformers==$1" "tokenizers$2" 'huggingface-hub>=0.24,<1.0'
        site=$("$own/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        # at the end of sys.path: what is installed here comes first
        "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/zz-active.pth"
        pwd >>"$site/zz-active.pth"
    fi
    "$own/bin/python" -W ignore -c 'import torch, transformers as t; print("environment: transformers", t.__version__, "torch", torch.__version__)'
}

environment 4.48.3 '>=0.21,<0.22'
environment 4.40.0 '>=0.19,<0.20'
environment 4.36.2 '>=0.14,<0.19'

envs=$(cd "$folder" && pwd)
second=$envs/4.48.3/bin/python
OTHER_PYTHON=$python "$second" -m pytest -q -p no:cacheprovider -o filterwarnings=default \
    tests/unit/test_engines.py tests/unit/test_chexfract.py tests/unit/test_chat_server.py \
    tests/unit/test_real_shapes.py tests/unit/test_native.py tests/unit/test_dead_models.py
OTHER_PYTHON=$second \
ENGINE_PYTHONS="maira2=$second chexagent=$envs/4.40.0/bin/python cxr_llava=$envs/4.36.2/bin/python" \
    "$python" -m pytest -q -p no:cacheprovider tests/unit/test_engines.py -k side_by_side
