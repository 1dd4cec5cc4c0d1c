"""The paper's tables and figures: what to run, and what came out, from the records of runs only."""
