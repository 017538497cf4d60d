"""Measuring bundles: devices, workloads, baselines, statistics, report. Entry point: `edgeadapt_bench.run.bench`."""
