"""The evidence: which runs are compared on bigbench25, running them, and the tables made of the stored ones."""
