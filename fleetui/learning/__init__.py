"""Learning: datasets, runs, checkpoints and metrics; jobs.py supervises the training processes."""
