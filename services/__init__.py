"""A folder per process of the platform; each is wired once, in its `__main__.py`."""
