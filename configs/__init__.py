"""What `--config` takes; a module `base` holds what the configs beside it share."""
