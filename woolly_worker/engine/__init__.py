"""Pure control: who runs next, which token, which text. No Celery, no Redis, no HTTP."""
