"""What a wrong configuration raises."""


class ConfigError(ValueError):
    """A configuration the user can mend. The message names every wrong key, where it came from and the remedy."""
