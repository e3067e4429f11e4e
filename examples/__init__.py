"""Whole training scripts on real environments, each read in one sitting."""

from compiled_rl.extras import needed_by

with needed_by("compiled_rl.examples"):
    import gymnasium  # noqa: F401
    import typer  # noqa: F401
