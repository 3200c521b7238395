"""`python -m recipes.commands`: the `hybridpolicy` command for `accelerate launch -m` and for debuggers."""

import sys

from recipes.commands import main

if __name__ == "__main__":
    sys.exit(main())
