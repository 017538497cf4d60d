"""HEST and the two methods that it is compared with, TABS and BHSP: the spectral directions of frozen linear maps."""
