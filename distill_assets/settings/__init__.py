"""Every setting with its default and meaning, from file, environment and flags."""
