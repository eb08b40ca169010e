"""One side of a comparison in a fresh process: `child.py module:function THREADS ARGUMENTS`.

Calls the function with the JSON arguments and prints what it returns as the last line, in JSON.
"""

import importlib
import json
import sys


def main() -> None:
    name, threads, arguments = sys.argv[1:]
    import torch

    torch.set_num_threads(int(threads))
    module, _, function = name.partition(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(result | {"threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
