"""Training: one loop, one objective, schedules, checkpoints and run records. Knows models, no recipe and no command line."""
