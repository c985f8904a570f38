"""The extension needs nothing that the webui does not have; this only says so where something is too old."""

import torch

if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 0):
    print(f"EIUP needs torch 2.0 or newer for its hooks; this webui has {torch.__version__}.")
