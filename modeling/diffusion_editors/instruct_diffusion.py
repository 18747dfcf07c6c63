"""The old name of modeling/editors/diffusion/instruct_diffusion.py, for a release (CHANGELOG)."""

import sys

from modeling.editors.diffusion.instruct_diffusion import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
