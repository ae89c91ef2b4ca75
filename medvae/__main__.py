"""``python -m medvae``."""

from medvae.cli import main

main()
