"""Every decoder of foreign text, on any input: briefly in pytest, by hand for any length of time."""
