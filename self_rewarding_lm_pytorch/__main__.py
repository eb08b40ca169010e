"""`python -m self_rewarding_lm_pytorch`: the same as the console script."""

from self_rewarding_lm_pytorch.cli.main import main

main()
