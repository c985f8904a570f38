"""The adapter to AUTOMATIC1111's webui: the only modules that import ``modules.*``."""
