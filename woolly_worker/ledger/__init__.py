"""The job record in Redis: its keys, its scripts, its readers. No Celery, no HTTP, no arrays."""
