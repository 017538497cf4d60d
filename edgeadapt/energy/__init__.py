"""Modelled energy: what multiply-adds cost, plans that keep a budget of it; and meters, which measure."""
