"""The only code that knows Celery."""
