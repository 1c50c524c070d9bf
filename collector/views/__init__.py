"""Read models shared by the API, the page and the command line."""
