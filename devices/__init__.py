"""Devices: what a model costs on the machine it is for. No torch."""

from .budget import Budget as Budget
from .budget import judge as judge
from .budget import misses as misses
from .budget import parse_budget as parse_budget
from .device import Device as Device
from .device import device_names as device_names
from .device import find_device as find_device
from .measure import Row as Row
from .measure import measure as measure
from .measure import speed as speed
from .report import Report as Report
