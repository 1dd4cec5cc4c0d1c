"""Is a dataset fit to train on? What `pnfs doctor` checks, as plain functions."""
