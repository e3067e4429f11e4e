"""Whole training scripts on real environments, each read in one sitting."""
