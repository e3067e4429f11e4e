"""One question a file; ``timing.py`` holds the rules."""
