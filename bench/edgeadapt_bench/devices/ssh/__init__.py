"""A board that is reached with OpenSSH's own client; see edgeadapt_bench.devices.ssh.device."""

from edgeadapt_bench.devices.ssh.address import SCHEME, parse
from edgeadapt_bench.devices.ssh.device import RemoteReport, SshDevice

__all__ = ["SCHEME", "RemoteReport", "SshDevice", "parse"]
