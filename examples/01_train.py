"""Train a recipe; what is finished and unchanged is skipped, so the same call goes on after an interruption.

python examples/01_train.py recipes/quickstart.yaml runs/quickstart
"""

import logging
import sys

import skillcompose as sc

logging.basicConfig(level=logging.INFO, format="%(message)s")
run = sc.train(sc.Recipe.from_yaml(sys.argv[1]), sys.argv[2], allow_unmastered="--allow-unmastered" in sys.argv)
print(run.folder)
