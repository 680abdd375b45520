"""Make the brain mask of one image with deepbet.

python run_deepbet.py IMAGE MASK
"""

import sys

from deepbet import BrainExtraction

image, mask = sys.argv[1:]
BrainExtraction(no_gpu=True).run(image, mask_path=mask)
