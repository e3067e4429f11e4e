"""Files that were damaged, or changed by someone who knows how: refused, or as good as before."""
