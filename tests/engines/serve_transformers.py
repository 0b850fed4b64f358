"""Start `transformers serve` for a folder, without the package that its device maps want.

Usage: python serve_transformers.py FOLDER PORT. The server is the library's own, unchanged; only
the loading of weights gets no device map, for which it would ask for accelerate even on a CPU.
"""

import sys

import torch
import transformers.modeling_utils as loading
from transformers.cli.serve import Serve

loading.check_and_set_device_map = lambda device_map: None
torch.set_num_threads(1)
Serve(force_model=sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]), device="cpu")
