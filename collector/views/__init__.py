"""Read models that the API, the page and the command line share."""
