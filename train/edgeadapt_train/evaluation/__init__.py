"""`edgeadapt evaluate`: what finished runs come to, and how they compare. Reads stored runs; never imports torch.

request.py       what is asked                    runs.py, remote.py   runs, from their directories or from W&B
measures.py      what a run is measured by        costs.py             what its bundle costs, from a benchmark
comparison.py    runs beside each other           significance.py      paired tests
run_figures.py   comparison_figures.py   style.py   html.py            figures and the page
report.py        which files are written
"""
