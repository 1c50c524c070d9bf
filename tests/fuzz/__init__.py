"""Every decoder of foreign text, on any input: in pytest for a moment, by hand for as long as one likes."""
