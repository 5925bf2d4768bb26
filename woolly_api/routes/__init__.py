"""One file for each surface of the API."""
