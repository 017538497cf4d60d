"""The training stage: adapters, streams, the loop. Needs `pip install edgeadapt[train]`."""
