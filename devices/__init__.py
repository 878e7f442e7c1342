"""Devices: what a model costs on the machine it is for. No torch."""

from .device import Device as Device
from .device import device_names as device_names
from .device import find_device as find_device
