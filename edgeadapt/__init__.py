"""edgeadapt: adapters of a few tens of kilobytes, on a device. See README.md."""

__version__ = "0.1.0"
