"""What the API and the worker agree on. pydantic and the standard library only."""
