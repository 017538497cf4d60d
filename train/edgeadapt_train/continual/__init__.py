"""Learning tasks in a row: what the scores say together, and what is asked with and without task ids."""
